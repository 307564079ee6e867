"""Start the processes of one training on this machine: what torchrun does for several machines, without its own words.

Each process finds the others as torchrun would have told it, so that `model.distributed` need not know who started it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed, multiprocessing
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessContext, ProcessException, start_processes

Result = TypeVar("Result")
HOST = "127.0.0.1"

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends the others is no news


def is_started_by_torchrun() -> bool:
    """Whether this process is already one of several: torchrun started it, or `run_together` as torchrun would."""
    return distributed.is_torchelastic_launched()


def run_together(count: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call function(*arguments) in `count` new processes of one thread each; return what the main one's returns.

    function, its arguments and its result are pickled; it opens the processes itself (model.distributed). Where one
    fails the others are ended. Raises ValueError with the words of a ValueError or an OSError of a process, and
    torch's ProcessException for anything else; KeyboardInterrupt if they were interrupted.
    """
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    messages = multiprocessing.get_context("spawn").SimpleQueue()
    inputs = (count, store.port, messages, function, arguments)
    context: ProcessContext = start_processes(_enter, inputs, count, join=False)  # type: ignore[no-untyped-call]
    try:
        result: Result = _wait(context, messages)
        return result
    finally:
        for process in context.processes:
            process.terminate()
            process.join()


def _wait(context: ProcessContext, messages: Any) -> Any:
    try:
        while not context.join():
            pass
    except ProcessException as failure:
        if messages.empty():
            raise
        raise ValueError(messages.get()) from failure
    if messages.empty():  # torch lets a process that was interrupted end without a word
        raise KeyboardInterrupt
    return messages.get()


def _enter(rank: int, count: int, port: int, messages: Any, function: Callable[..., Any], arguments: Any) -> None:
    """Be one of the processes: leave the main one's result, or why this one failed, in messages."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": HOST, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    # The store is the parent's, as it is the agent's with torchrun.
    os.environ.update(TORCHELASTIC_RUN_ID="heatvit", TORCHELASTIC_USE_AGENT_STORE="True")
    torch.set_num_threads(1)
    # Torch has the system interrupt this process when its starter dies; a job of a script would ignore that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = function(*arguments)
    except (ValueError, OSError) as error:
        messages.put(str(error))
        raise
    if rank == 0:
        messages.put(result)
    # Threads of gloo outlive DistributedDataParallel; now and then they abort a process that ends in the usual way.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
