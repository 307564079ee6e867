"""What the commands share: the types of their options, and what becomes of a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heatvit.files import write_json

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.", dir_okay=False)
]
Config = Annotated[
    str, typer.Option("--config", metavar="NAME|FILE.json", help="Accelerator: a named config, or a JSON file.")
]
Images = Annotated[
    str,
    typer.Option(
        "--images",
        metavar="SOURCE",
        help="A folder of pictures (with one sub-folder a class if labels matter), a data set saved by Hugging Face's "
        "datasets, an .npz or .npz.xz pack, or digits. SOURCE:train is what `heatvit train` learns from, SOURCE:test "
        "what it holds back.",
    ),
]
Count = Annotated[int | None, typer.Option("--count", min=1, help="Use only the first so many pictures.")]
Weights = Annotated[Path, typer.Option("--weights", metavar="FILE", help="Float weights with timm's names.")]
Network = Annotated[
    str, typer.Option("--network", metavar="NAME|FILE.json", help="Topology: a named network, or a JSON file.")
]
Calibrate = Annotated[
    str | None,
    typer.Option("--calibrate", metavar="SOURCE", help="Pictures that fix the scales [default: last of --images]"),
]
Work = Annotated[Path, typer.Option("--work", metavar="DIR", help="Folder of generated files and cached builds.")]

WORK_FOLDER = Path("build/work")


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the numbers of an option's "N,N,..."; nothing gives none. Raises ValueError naming the option."""
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"{option} must be whole numbers with commas between them, not {text!r}")
    return [int(word) for word in words]


def is_given(context: typer.Context, name: str) -> bool:
    """Tell whether the parameter of that name was on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def finish(
    title: str, result: dict[str, Any], json_file: Path | None, *, failed: bool = False, hidden: tuple[str, ...] = ()
) -> int:
    """Print a result without its hidden values, write all of it as JSON if asked to, and return the exit code."""
    print_result(title, {name: value for name, value in result.items() if name not in hidden})
    if json_file is not None:
        write_json(json_file, result)
    return EXIT_FAILED if failed else 0


def print_result(title: str, result: dict[str, Any]) -> None:
    """Print a result as a table, long values by their number."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for name, value in result.items():
        table.add_row(escape(name), escape(_brief(value)))
    Console().print(table)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header."""
    table = Table(title=escape(title), title_justify="left")
    for column, name in enumerate(header):
        table.add_column(escape(name), justify="right" if column in (1, 2) else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_brief(item)}" for name, item in value.items())
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(item, dict | list) for item in value)):
        return f"{len(value)} values; --json has them all"
    return str(value)
