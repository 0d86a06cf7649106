"""A study of 100 rows in a world of few training steps: every stage for real, in minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tasks.process import PROJECT, free_port

SMALL = [
    *("--world.trunk.steps", "60", "--world.teacher.steps", "120", "--world.reward.steps", "20"),
    *("--world.responder_a.steps", "50", "--world.responder_b.steps", "30", "--world.responder_c.steps", "20"),
    *("--world.questions_per_subject", "8", "--world.questions", "24", "--world.reward_heldout", "20"),
    *("--generation.rows", "100", "--generation.rows_per_shard", "16"),
    *("--filter.train_rows", "24", "--filter.val_rows", "8", "--filter.group_similarity", "0.7"),
    *("--preference.pairs", "12", "--preference.train_pairs", "8", "--preference.val_pairs", "2"),
    *("--tuning.checkpoint_steps", "4", "--evaluation.speed_new_tokens", "8", "--evaluation.speed_repeats", "2"),
    *("--world.pages", "4", "--evaluation.answer_rows", "6", "--evaluation.answer_max_new_tokens", "24"),
]


def start_study(workspace: Path, home: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The real command, as a user types it, with a Prefect home and a port of its own."""
    environment = os.environ | {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    command = [sys.executable, "-m", "flows.full_pipeline", "--workspace", str(workspace), *SMALL, *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def finish_study(run: subprocess.Popen[bytes], log: Path, seconds: float = 900) -> None:
    """Wait for exit code 0; its last words are the failure's message."""
    try:
        code = run.wait(timeout=seconds)
    finally:
        run.kill()
    assert code == 0, log.read_text()[-4000:]
