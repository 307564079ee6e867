"""Several processes that train as one: each takes its share of every batch, and together they make one update.

torchrun starts them and says by environment variables who they are; they must see the same files. What is drawn at
random is drawn for the whole batch by every process, from the same seed, and then shared out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Rows = TypeVar("Rows", NDArray[Any], Tensor)
Value = TypeVar("Value")
Mean: TypeAlias = Callable[[Tensor], Tensor]
"""The mean of all values of a batch, whatever part of it this process has: torch.mean, or Processes.mean."""

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
TIMEOUT = timedelta(minutes=10)
"""A process that has waited this long for another one ends with an error, and torchrun then ends the others."""


@dataclass(frozen=True)
class Processes:
    """The place of this process among those of one training, and what they do together.

    rank is 0..size-1; device is torch's name of the device of this process. Every method but `share` must be called by
    all processes in the same order.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and shows progress."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """Return the rows of a batch (B, ...) that this process takes, about B / size of them."""
        return rows[self.rank :: self.size]

    def collect(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Undo `share`: return the rows of all processes, in the order of the batch."""
        if self.size == 1:
            return rows
        pieces: list[Any] = [None] * self.size
        distributed.all_gather_object(pieces, rows)
        batch = np.empty((sum(map(len, pieces)), *rows.shape[1:]), rows.dtype)
        for rank, piece in enumerate(pieces):
            batch[rank :: self.size] = piece
        return batch

    def from_main(self, value: Value) -> Value:
        """Return what the main process has here, in every process: it decides where theirs could differ."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all values of all processes, which may have different numbers of them, in float32.

        The gradient is `size` times that of this process's part, because `replicate` averages gradients: what
        arrives at the parameters is the gradient of the mean, also through a square of it.
        """
        if self.size == 1:
            return values.float().mean()
        part = values.float().sum()
        sums = torch.stack([part.detach().double(), part.new_tensor(values.numel(), dtype=torch.float64)])
        distributed.all_reduce(sums)
        total, count = sums.unbind()
        part = part * (self.size / count).float()
        return (total / count).float() + (part - part.detach())  # the bracket is exactly zero

    def replicate(self, network: nn.Module) -> nn.Module:
        """Return a module to be called for training in place of `network`, whose gradients it averages."""
        return network if self.size == 1 else DistributedDataParallel(network)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process run a block, then the others: they find the files that it made."""
        if not self.is_main:
            distributed.barrier()
        yield
        if self.is_main and self.size > 1:
            distributed.barrier()

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError if a batch cannot be shared out evenly."""
        if batch_size % self.size:
            raise ValueError(f"batch_size must be a multiple of the {self.size} processes, not {batch_size!r}")


ALONE = Processes()


@contextmanager
def open_processes(device: str = "cpu", timeout: timedelta = TIMEOUT) -> Iterator[Processes]:
    """Join the processes of torchrun, and leave them at the end; started otherwise, this process is alone.

    Once in the life of a process: a second time, it could find the addresses that the others had the first time.
    device is "cpu" (they communicate by gloo) or "cuda" (by nccl, each process on a device of its own). Raises
    ValueError if it is neither or there are fewer devices than processes.
    """
    if device not in BACKENDS:
        raise ValueError(f"device must be one of {', '.join(BACKENDS)}, not {device!r}")
    local_rank = int(os.environ["LOCAL_RANK"]) if distributed.is_torchelastic_launched() else 0
    if device == "cuda":
        if (found := torch.cuda.device_count()) <= local_rank:
            raise ValueError(f"device cuda must have one device per process, and number {local_rank} is not of {found}")
        torch.cuda.set_device(local_rank)
    if not distributed.is_torchelastic_launched():
        yield replace(ALONE, device=device)
        return
    distributed.init_process_group(BACKENDS[device], timeout=timeout)
    try:
        # A tensor that goes to "cuda" goes to the device that was set.
        yield Processes(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
