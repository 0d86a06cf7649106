"""Nobody waits for a child that will not answer."""

from __future__ import annotations

import sys

import pytest

from tasks.process import ChildError, ModelProcess


@pytest.mark.parametrize("last_words", ["", '{"call": 0, "res', '{"call": 0, "result": [1, 2'])
def test_a_child_killed_in_the_middle_of_a_reply_fails_its_calls(last_words: str) -> None:
    script = f"import sys; sys.stdout.write({last_words!r}); sys.stdout.flush(); sys.exit(7)"
    with ModelProcess("nothing", {}, threads=1, launcher=(sys.executable, "-c", script)) as child:
        with pytest.raises(ChildError, match="ended with code 7"):
            child.ready.result(timeout=30)
        assert not child.alive
