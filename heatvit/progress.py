"""Progress bars on stderr, one for each step of a long command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

Report: TypeAlias = Callable[[str, int, int], None]
"""Called as report(step, done, total); total 0 says that the length of the step is unknown."""


def show_progress(is_shown: bool = True) -> Progress:
    """Return bars for stderr, to be used in a with block; where that is no terminal, they appear once, at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not is_shown)


def reporter(progress: Progress) -> Report:
    """Return a Report that draws one bar a step; a step that starts again reuses its bar.

    Where there is no terminal, the start of each step is a line instead, so that a log shows life.
    """
    tasks: dict[str, TaskID] = {}

    def report(step: str, done: int, total: int) -> None:
        if step not in tasks:
            tasks[step] = progress.add_task(step, total=total or None)
            if not progress.disable and not progress.console.is_terminal:
                progress.console.print(f"{step} ...", markup=False)
        progress.update(tasks[step], completed=done, total=total or None)

    return report
