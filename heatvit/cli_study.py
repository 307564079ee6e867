"""The `heatvit study` commands: parse, show progress, print; delta_*.py and pruning_study.py do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from heatvit.cli_common import Count, JsonFile, Network, print_table, whole_numbers
from heatvit.files import write_json, write_text
from heatvit.progress import show_progress

app = typer.Typer(help="Test what papers claim by training small networks.", no_args_is_help=True)


@app.command("delta")
def study_delta(
    train: Annotated[str, typer.Option("--train", metavar="SOURCE", help="Labelled pictures to train with.")],
    test: Annotated[str, typer.Option("--test", metavar="SOURCE", help="Labelled pictures to measure on.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the trainings, which a second call goes on with.")
    ] = Path("build/delta"),
    network: Network = "cifar10",
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="How to train; of its stages only the dense one.")
    ] = "delta_study",
    deltas: Annotated[
        list[str] | None,
        typer.Option(
            "--deltas",
            metavar="D1,D2",
            help="A setting of delta1 and delta2; repeatable, the first is what others are compared with "
            "[default: 1,1 and 0.5,1 and 0.5,0.5]",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N,...", help="Seeds of the trainings.")] = "0,1,2",
    is_compiled: Annotated[
        bool, typer.Option("--compile", help="Train by torch.compile: about three times as fast, needs g++.")
    ] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Also draw the measurements of every seed.")
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Train with delta1 and delta2 of 1 and of 0.5, quantize, and compare the errors of the integers.

    Example: `heatvit study delta --train cifar10_train.npz.xz --test cifar10_test.npz.xz --compile`
    """
    from heatvit import delta_study
    from heatvit.delta_tables import study_drawing, study_tables

    settings = tuple(_pair(text) for text in deltas) if deltas else delta_study.SETTINGS
    numbers = tuple(whole_numbers("--seeds", seeds))
    study = delta_study.Study(train, test, out, network, recipe, settings, numbers, is_compiled)
    with show_progress() as progress:
        result = delta_study.run_study(study, progress)
    for table in study_tables(result):
        Console().print(table)
    if svg is not None:
        write_text(svg, study_drawing(result).file())
    if json_file is not None:
        write_json(json_file, result)
    return 0


def _pair(text: str) -> tuple[float, float]:
    try:
        delta1, delta2 = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--deltas must be two numbers with a comma between them, not {text!r}") from None
    return delta1, delta2


@app.command("pruning")
def study_pruning(
    runs: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `heatvit train --config`.")],
    images: Annotated[str, typer.Option("--images", metavar="SOURCE", help="Labelled pictures to measure on.")],
    without_package: Annotated[
        Path | None,
        typer.Option("--no-package", metavar="DIR", help="Folder of the same training with --no-package, to compare."),
    ] = None,
    count: Count = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Also draw accuracy against work.")] = None,
    json_file: JsonFile = None,
) -> int:
    """Compare trained selectors, in float and in integers, with rankings that need no training, at equal work.

    Example: `heatvit study pruning build/deit_tiny_heatvit --images PICTURES --json pruning.json`
    """
    from heatvit.pruning_study import HEADER, PruningStudy, study_drawing, table_rows

    with show_progress() as progress:
        result = PruningStudy(runs, without_package, images, count, progress).run()
    print_table(f"{result['n']} pictures of {images}", HEADER, table_rows(result))
    if svg is not None:
        write_text(svg, study_drawing(result).file())
    if json_file is not None:
        write_json(json_file, result)
    return 0
