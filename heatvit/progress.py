"""Progress bars on stderr, one for each step of a long command."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def show_progress() -> Progress:
    """Return bars for stderr, to be used in a with block; where that is no terminal, only the last state is printed."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def tracker(progress: Progress, step: str) -> Callable[[int, int], None]:
    """Add a bar and return the function (done, total) that moves it."""
    task = progress.add_task(step, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)
