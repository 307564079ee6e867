"""Processes of one training started by one command.

Testpoints: they know one another as torchrun's do, and the main one's result comes back; an error of the input in any
of them is one ValueError with its words, another one is not; where one fails, or the starter is interrupted or
ends, none is left.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest
from launched import be_interrupted, fail_in, mean_of_ranks
from torch.multiprocessing import ProcessRaisedException
from torch.multiprocessing.spawn import ProcessContext
from two_processes import ROOT

from model.launch import is_started_by_torchrun, run_together

pytestmark = pytest.mark.slow


def test_main_result_comes_back() -> None:
    assert not is_started_by_torchrun()
    for _ in range(2):  # the second time with other addresses
        assert run_together(2, mean_of_ranks, 3.0) == (0, 1.5, 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_wrong_input_is_said_in_its_own_words(rank: int) -> None:
    with pytest.raises(ValueError, match=r"^limits must fall$"):
        run_together(2, fail_in, rank, ValueError("limits must fall"))
    assert not active_children()


def test_other_errors_are_errors_of_ours() -> None:
    with pytest.raises(ProcessRaisedException, match="KeyError: 'block'"):
        run_together(2, fail_in, 1, KeyError("block"))


def test_an_interrupt_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ProcessContext) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_together(2, be_interrupted)
    monkeypatch.setattr(ProcessContext, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_together(2, fail_in, 1, ValueError("late"))
    assert not active_children()


@pytest.mark.parametrize("is_ignored", [False, True])
def test_the_end_of_the_starter_leaves_none(tmp_path: Path, is_ignored: bool) -> None:
    """Also that of a job in the background of a script, which ignores interrupts."""

    def ignore() -> None:
        if is_ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    command = [sys.executable, str(ROOT / "tests" / "launched.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    starter = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, preexec_fn=ignore)
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        starter.terminate()
        starter.wait()
    wait_until(lambda: not any(Path("/proc", file.name, "fd").exists() for file in tmp_path.iterdir()))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait a minute at most."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)
