"""What processes do that test_model_launch.py starts: they import it by this name.

As a program, with a folder: start two processes that stay.
"""

import os
import sys
import time
from pathlib import Path

import torch

from model.distributed import open_processes
from model.launch import is_started_by_torchrun, run_together


def mean_of_ranks(factor: float) -> tuple[int, float, int]:
    """Return rank, the mean over all ranks times factor, and how many threads torch has."""
    assert is_started_by_torchrun()
    with open_processes() as processes:
        mean = processes.mean(torch.tensor([factor * processes.rank])).item()
        return processes.rank, mean, torch.get_num_threads()


def be_interrupted() -> None:
    """End as by an interrupt that every process got."""
    raise KeyboardInterrupt


def fail_in(rank: int, error: Exception) -> None:
    """Raise in one process, while the others wait for it."""
    with open_processes() as processes:
        if processes.rank == rank:
            raise error
        time.sleep(600)


def stay(folder: Path) -> None:
    """Say which process this is, and stay."""
    (folder / str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    run_together(2, stay, Path(sys.argv[1]))
