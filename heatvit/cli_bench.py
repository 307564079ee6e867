"""The `heatvit bench` commands: parse, show progress, print; heatvit/bench*.py and speed.py do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from heatvit.cli_common import (
    WORK_FOLDER,
    Calibrate,
    Config,
    Images,
    JsonFile,
    Network,
    Weights,
    Work,
    finish,
    print_table,
    whole_numbers,
)
from heatvit.frame_rates import CLOCKS_MHZ
from heatvit.layer_table import layer_table
from heatvit.progress import reporter, show_progress

app = typer.Typer(help="Measure the simulated accelerator, and software.", no_args_is_help=True)


@app.command("cycles")
def bench_cycles(
    weights: Annotated[
        Path,
        typer.Option(
            "--weights", metavar="FILE", help="Float weights with timm's names, or an integer network as it is."
        ),
    ],
    images: Images,
    network: Network = "deit_tiny",
    keep: Annotated[
        str,
        typer.Option("--keep", metavar="N,N,...", help="Mean live tokens after each selector; none: no selectors."),
    ] = "",
    scale_gmac: Annotated[
        float | None,
        typer.Option("--scale-gmac", min=0.0, help="Also scale the cycles to this work [default: that of --keep]"),
    ] = None,
    calibrate: Calibrate = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Measure the first so many pictures [default: one run's]")
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Pictures that share a run and the weights loaded for it.")
    ] = 1,
    config: Config = "zcu102_2048",
    work: Work = WORK_FOLDER,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="Also write report.html, timeline.svg, roofline.svg, descriptors.csv."
        ),
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Count the cycles of a network on the RTL with a model of the board's DDR, and compare every layer.

    Exit code 1 if anything differs.

    Example: `heatvit bench cycles --network deit_tiny --weights deit_tiny.npz --images pictures.npz --json cycles.json`
    """
    from heatvit import bench
    from heatvit.subject import Subject

    subject = Subject(network, weights, images, config, calibrate, work)
    counts = whole_numbers("--keep", keep)
    if scale_gmac is not None and not (counts or subject.is_integer):
        raise ValueError("--scale-gmac needs --keep: the work of a dense network is always the same")
    with show_progress() as progress:
        result = bench.bench_cycles(subject, count or batch, batch, counts, scale_gmac, report, reporter(progress))
    Console().print(layer_table(result.get("layers", [])))
    return finish("measured", result, json_file, failed=result["mismatches"] > 0)


@app.command("model")
def bench_model(
    weights: Weights,
    images: Images,
    network: Network = "deit_tiny",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="N,N,...",
            help="A setting: live tokens after each selector, or none. May be repeated [default: 12 settings]",
        ),
    ] = None,
    calibrate: Calibrate = None,
    config: Config = "zcu102_2048",
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Compare the cycle model with the RTL over settings of the live token counts.

    Exit code 1 if a logit differs from the golden model.

    Example: `heatvit bench model --network deit_tiny --weights deit_tiny.npz --images pictures.npz --json model.json`
    """
    from heatvit import bench_model as benchmark
    from heatvit.subject import Subject

    subject = Subject(network, weights, images, config, calibrate, work)
    settings = [whole_numbers("--keep", text) for text in keep or []]
    with show_progress() as progress:
        result = benchmark.bench_model(subject, settings, reporter(progress))
    header = ("live tokens", "cycles", "model", "error", "worst layer's error", "worst layer")
    print_table("cycle model against RTL", header, benchmark.model_table(result))
    return finish("compared", result, json_file, failed=result["mismatches"] > 0)


@app.command("torch")
def bench_torch(
    network: Annotated[
        str, typer.Option("--network", metavar="NAME|FILE.json", help="Topology: a named network, or a JSON file.")
    ] = "deit_tiny",
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="N,N,..", help="Live tokens that each selector leaves.")
    ] = "88,45,32",
    json_file: JsonFile = None,
) -> int:
    """Measure float inference in torch: images a second with and without pruning, batch 1 and 32, in one run.

    Example: `heatvit bench torch --network deit_tiny --tokens 88,45,32 --json speed.json`
    """
    from heatvit import speed

    counts = whole_numbers("--tokens", tokens)
    with show_progress() as progress:
        result = speed.bench_torch(network, counts, reporter(progress))
    return finish("measured", result, json_file)


@app.command("size")
def bench_size(
    network: Network = "deit_small",
    config: Config = "zcu102_2048",
    keep: Annotated[
        str, typer.Option("--keep", metavar="N,N,...", help="Mean live tokens after each selector; none: no selectors.")
    ] = "",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Random pictures that share a run.")] = 1,
    rtl: Annotated[
        bool, typer.Option("--rtl", help="Also run the pictures on the RTL, with a model of the board's DDR.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same weights and pictures.")] = 0,
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Fit a network of random weights on an accelerator: memories, every layer on the machine, cycles of the model.

    Exit code 1 if anything differs from the golden model. Example: `heatvit bench size --network deit_base --rtl`
    """
    from heatvit import bench_size as benchmark

    trial = benchmark.Trial(network, config, tuple(whole_numbers("--keep", keep)), batch, seed)
    with show_progress() as progress:
        result = benchmark.bench_size(trial, work if rtl else None, reporter(progress))
    header = ("memory", "words used", "available", "share", "BRAM36")
    print_table(f"memories of {config}", header, benchmark.memory_table(result))
    clocks = " / ".join(map(str, CLOCKS_MHZ))
    header = ("", "cycles a picture", "utilisation", "DDR bytes", f"frames/s at an assumed {clocks} MHz")
    print_table(f"{network} on {config}", header, benchmark.cycle_table(result))
    return finish("sized", result, json_file, failed=result["mismatches"] > 0, hidden=benchmark.TABLED)
