"""The commands `heatvit compile` and `heatvit run`: parse, show progress, print; compiled.py and run.py do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatvit.cli_common import WORK_FOLDER, Config, Count, Images, JsonFile, Work, finish
from heatvit.progress import reporter, show_progress


def compile_command(
    network: Annotated[Path, typer.Argument(metavar="NETWORK.safetensors", help="Integer network.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.npz", help="The compiled network.")],
    config: Config = "demo",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures that share a run and its weights.")] = 1,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="SOURCE", help="Also store pictures, and what the golden model says of them, for tests."
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Store the first so many of --images.")] = 8,
    json_file: JsonFile = None,
) -> int:
    """Compile an integer network for an accelerator: the one file that a board needs beside its bitstream.

    Example: `heatvit compile build/net.safetensors --config demo --images digits:test --out build/net.npz`
    """
    from heatvit import compiled

    result = compiled.compile_file(network, config, out, batch, images, count)
    return finish(f"compiled: {out}", result, json_file, hidden=("config",))


def run_command(
    network: Annotated[Path, typer.Argument(metavar="NETWORK", help="Integer network, or a compiled one (.npz).")],
    device: Annotated[
        str, typer.Option("--device", metavar="KIND", help="machine, rtl (both a simulated ZCU102) or board.")
    ] = "machine",
    images: Images = "digits:test",
    count: Count = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="NAME|FILE.json", help="Accelerator [default: demo, or the compiled one]"),
    ] = None,
    bitstream: Annotated[
        Path | None, typer.Option("--bitstream", metavar="FILE.bit", help="With its .hwh and manifest.json beside it.")
    ] = None,
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Run pictures through PYNQ on a board or a simulated one; compare with the golden model.

    The same program for every device. `--images samples` takes the pictures in a compiled network. Exit code 1 if a
    picture differs or the core reports an error.

    Example: `heatvit run build/net.safetensors --device rtl --images digits:test --count 3`
    """
    from heatvit.devices import DeviceKind
    from heatvit.run import RunSettings, run_network

    kinds = [kind.value for kind in DeviceKind]
    if device not in kinds:
        raise ValueError(f"--device must be one of {', '.join(kinds)}, not {device!r}")
    settings = RunSettings(network, DeviceKind(device), images, count, config, bitstream, work)
    with show_progress() as progress:
        result = run_network(settings, reporter(progress))
    failed = bool(result["failure"] or result["mismatches"])
    return finish(f"ran on {device}: {network}", result, json_file, failed=failed)
