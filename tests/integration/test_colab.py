"""`colab.ipynb` as Colab runs it: a kernel whose packages would break the study, a Drive, sessions that are killed.

`google.colab` and uv's installation are stand-ins; the cells, the kernel and the study are real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tasks.process import PROJECT, free_port
from tests.small import SMALL

STUDY = " ".join(SMALL)
COLAB = '''
"""What the notebook uses of Colab; calls are kept in the file COLAB_CALLS."""
import json, os, pathlib

def keep(*call):
    with open(os.environ["COLAB_CALLS"], "a") as file:
        file.write(json.dumps(call) + "\\n")

class drive:
    def mount(path):
        if not os.path.lexists(path):
            keep("mount", sorted(os.listdir(pathlib.Path(path).parent)))
            os.symlink(os.environ["COLAB_DRIVE"], path)

class files:
    def upload():
        return {name: b"" for name in os.environ.get("COLAB_UPLOADS", "").split()}

class userdata:
    class SecretNotFoundError(Exception): pass
    class NotebookAccessError(Exception): pass
    class TimeoutException(Exception): pass
    def get(name):
        keep("secret", name)
        return "hf_secret"

class output:
    def serve_kernel_port_as_iframe(port, path="/", width="100%", height="400"):
        keep("iframe", port, path)
    def serve_kernel_port_as_window(port, path="/", anchor_text=None):
        keep("window", port, path)
'''
SERVER = "prefect server start --host 127.0.0.1 --port"
# uv that keeps what it is asked for; instead of gigabytes it installs a way to the packages of these tests
UV = """#!{python}
import json, os, pathlib, subprocess, sys
with open(os.environ["COLAB_CALLS"], "a") as file:
    file.write(json.dumps(["uv", os.environ.get("UV_TORCH_BACKEND"), *sys.argv[1:]]) + "\\n")
if sys.argv[1] == "venv":
    subprocess.run([{python!r}, "-m", "venv", "--without-pip", sys.argv[-1]], check=True)
else:
    environment = pathlib.Path(sys.argv[sys.argv.index("--python") + 1]).parents[1]
    packages, = environment.glob("lib/*/site-packages")
    (packages / "tests.pth").write_text("import site; site.addsitedir({packages!r})")
"""


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as Colab's: a kernel, and packages that break what imports them."""
    folder = tmp_path_factory.mktemp("outer") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "-q", "-c", PROJECT / "constraints.txt", "ipykernel"]
    subprocess.run(install, check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    write(packages / "google" / "colab" / "__init__.py", COLAB)
    for name, version in {"torchvision": "0.20.0", "torchao": "0.10.0"}.items():
        write(packages / name / "__init__.py", "raise RuntimeError('operator torchvision::nms does not exist')")
        write(packages / f"{name}-{version}.dist-info" / "METADATA", f"Name: {name}\nVersion: {version}\n")
    uv = folder / "bin" / "uv"
    write(uv, UV.format(python=sys.executable, packages=sysconfig.get_path("purelib")))
    uv.chmod(0o755)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@dataclass
class Colab:
    """A student's Colab: the Drive outlives the machines."""

    place: Path
    outer: Path
    machines: int = 0
    ports: list[int] = field(default_factory=list)

    @property
    def study(self) -> Path:
        return self.place / "drive" / "MyDrive" / "synthetic-instruction-tuner"

    @property
    def port(self) -> int:
        """Where this machine's Prefect server listens."""
        return self.ports[-1]

    @property
    def content(self) -> Path:
        """`/content` of the machine that is there now."""
        return self.place / f"machine-{self.machines}"

    @property
    def own(self) -> Path:
        """What this test keeps of that machine."""
        return self.place / f"machine-{self.machines}-own"

    def calls(self, name: str) -> list[list[Any]]:
        """What was asked of Colab and of uv on this machine."""
        lines = (self.own / "calls").read_text().splitlines()
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]

    def new_machine(self) -> None:
        self.machines += 1
        self.ports.append(free_port())
        self.content.mkdir()
        (self.place / "drive" / "MyDrive").mkdir(parents=True, exist_ok=True)

    def run_all(
        self, home: Path = PROJECT, cells: int = 8, gpu: str = "", uploads: str = "", **fields: str
    ) -> list[str]:
        """Run the notebook's cells from top to bottom.

        Args:
            home: where the kernel starts.
            cells: number of cells of code to run.
            gpu: memory and driver as nvidia-smi tells them; empty where there is none.
            uploads: files that the student chooses when asked.
            fields: values of the form.

        Returns:
            what each cell of code printed or showed.

        Raises:
            CellExecutionError: a cell failed.
            DeadKernelError: the machine was killed.
        """
        notebook = nbformat.read(PROJECT / "colab.ipynb", as_version=4)
        notebook.cells = code = [cell for cell in notebook.cells if cell.cell_type == "code"][:cells]
        for name, value in fields.items():
            line = next(line for line in code[0].source.splitlines() if line.startswith(f"{name} = "))
            assert "# @param" in line, "a field of the form"
            code[0].source = code[0].source.replace(line, f"{name} = {value!r}")
        for cell in code:
            cell.source = cell.source.replace("/content", str(self.content)).replace("4200", str(self.port))
        broken = next(self.outer.glob("lib/*/site-packages"))
        write(self.own / "bin" / "nvidia-smi", f"#!/bin/sh\n{f'echo {gpu}' if gpu else 'echo failed; exit 9'}\n")
        (self.own / "bin" / "nvidia-smi").chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "HF_TOKEN")}
        environment |= {
            "PATH": f"{self.outer}/bin:{self.own}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(broken),
            "UV_SYSTEM_PYTHON": "true",
            "UV_CONSTRAINT": "/backend-container/containers/requirements.constraints",
            "COLAB_CALLS": str(self.own / "calls"),
            "COLAB_DRIVE": str(self.place / "drive"),
            "COLAB_UPLOADS": uploads,
            "PREFECT_HOME": str(self.own / "prefect"),
            "IPYTHONDIR": str(self.own / "ipython"),
        }
        kernels = self.own / "kernels"
        argv = [str(self.outer / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        write(kernels / "python3" / "kernel.json", json.dumps({"argv": argv, "display_name": "", "language": "python"}))
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(kernels)]),
            connection_file=str(self.own / "connection.json"),
        )
        client = NotebookClient(
            notebook, km=manager, timeout=600, coalesce_streams=True, resources={"metadata": {"path": str(home)}}
        )
        try:
            client.execute(cleanup_kc=False, env=environment)  # its cleaning up stumbles over a kernel that was killed
        finally:
            end(str(self.own / "connection.json"))
        return [told(cell) for cell in code]

    def kill_when(self, time_has_come: Callable[[], bool]) -> None:
        """End the machine's processes with no goodbye."""
        while not time_has_come():
            time.sleep(0.05)
        end(str(self.content))


def told(cell: Any) -> str:
    """All that a cell printed or showed."""
    outputs = [output.get("text") or output.get("data", {}).get("text/html", "") for output in cell.outputs]
    return "".join(outputs)


def processes(*words: str) -> list[int]:
    """Processes of whose command line one of the words is a part."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if any(word in line for word in words):
            found.append(process.pid)
    return found


def end(word: str) -> None:
    """Kill the processes that a word of their command line names, and those that they start meanwhile."""
    while pids := processes(word):
        for pid in pids:
            with suppress(ProcessLookupError):  # it ended with the one that started it
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def colab(tmp_path: Path, outer: Path) -> Iterator[Colab]:
    colab = Colab(tmp_path, outer)
    colab.new_machine()
    yield colab
    for port in colab.ports:
        end(f"{SERVER} {port}")


def test_sessions_on_colab(colab: Colab, small_study: Path) -> None:
    """Killed in the middle, gone on with on another machine, then nothing to do; Colab's packages are not touched."""
    packages = [colab.outer / "bin" / "python", "-m", "pip", "freeze", "--all"]
    before = subprocess.check_output(packages, stderr=subprocess.DEVNULL)
    shutil.copytree(small_study, colab.study, ignore=shutil.ignore_patterns(".state", "dpo", "export"))
    for path in (colab.study / "evaluation").iterdir():  # earlier sessions came as far as the last training
        if path.name not in ("results", "answers"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    trained = colab.study / "models" / "dpo" / "seed-0" / "adapter_model.safetensors"
    killer = threading.Thread(target=colab.kill_when, args=[trained.exists], daemon=True)
    killer.start()
    with pytest.raises(DeadKernelError):
        colab.run_all(ARGUMENTS=STUDY)
    killer.join()
    kept = {path: path.stat().st_mtime_ns for path in colab.study.glob("models/**/*.safetensors")}
    assert trained in kept and not (colab.study / "evaluation" / "report.html").exists()

    colab.new_machine()
    _, _, environment, _, _, study, status, report = colab.run_all(ARGUMENTS=STUDY)
    assert colab.calls("mount") == [[[]]], "first of all, before anything is written under /content"
    assert "profile demo" in environment and [call[1] for call in colab.calls("uv")] == ["venv", "pip"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert re.search(r"^report +done", status, re.MULTILINE), study + status
    assert "<html" in report
    assert colab.calls("iframe") == colab.calls("window") == [[colab.port, "/runs"]]
    with urllib.request.urlopen(f"http://127.0.0.1:{colab.port}/ui-settings") as answer:
        assert json.load(answer)["api_url"] == "/api", "the browser knows no 127.0.0.1 of Colab's"
    assert colab.calls("secret") == []

    assert "Nothing to do" in colab.run_all(ARGUMENTS=STUDY)[5]
    assert [call[1] for call in colab.calls("uv")] == ["venv", "pip"], "the environment is made once a session"
    assert subprocess.check_output(packages, stderr=subprocess.DEVNULL) == before


@pytest.mark.parametrize(
    ("gpu", "profile", "project", "backend"),
    [
        ("", "demo", ".", "cpu"),
        ("15360, 550.54.15", "t4", ".", "cu126"),
        ("15360, 580.95.05", "t4", ".", None),
        ("40960, 580.95.05", "a100", ".[vllm,kernels]", None),
    ],
)
def test_the_gpu_chooses_profile_packages_and_torch(
    colab: Colab, gpu: str, profile: str, project: str, backend: str | None
) -> None:
    assert f"profile {profile}," in colab.run_all(cells=4, gpu=gpu)[2]
    venv, install = colab.calls("uv")
    assert install[0] == backend and install[-4:] == ["-c", "constraints.txt", "-e", project]
    assert (colab.calls("secret") == [["HF_TOKEN"]]) == (profile != "demo")
    assert "profile smol," in colab.run_all(cells=4, gpu=gpu, PROFILE="smol")[2]


def test_a_notebook_without_its_project_says_what_to_do(colab: Colab, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    with pytest.raises(CellExecutionError) as stopped:
        colab.run_all(home, cells=2)
    told = stopped.value.traceback.split("------------------")[-1]
    (line,) = told.strip().splitlines()
    assert "REPOSITORY" in line and "Drive" in line
    repository = tmp_path / "repository"
    write(repository / "flows" / "full_pipeline.py", "first")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    colab.run_all(home, cells=2, REPOSITORY=str(repository))
    cloned = colab.content / "synthetic-instruction-tuner" / "flows" / "full_pipeline.py"
    cloned.write_text("the student's")
    colab.run_all(home, cells=2, REPOSITORY=str(repository))
    assert cloned.read_text() == "the student's"

    colab.new_machine()
    shutil.make_archive(str(home / "tuner-main"), "zip", tmp_path, "repository/flows")
    colab.run_all(home, cells=2, uploads="tuner-main.zip")
    assert (colab.content / "repository" / "flows" / "full_pipeline.py").is_file()
    colab.run_all(home, cells=2)


@pytest.mark.parametrize("gpu", ["", "40960, 580.95.05"])
def test_uv_can_install_what_the_notebook_asks_for(colab: Colab, gpu: str, tmp_path: Path) -> None:
    """The very command line, and versions that agree; the stand-in only kept it."""
    colab.run_all(cells=3, gpu=gpu)
    _, *words = colab.calls("uv")[-1]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", tmp_path / "uv", "uv"], check=True)
    uv = [tmp_path / "uv" / "bin" / "uv", *words, "--dry-run", "--no-config"]
    ended = subprocess.run(uv, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
