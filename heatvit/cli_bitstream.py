"""The `heatvit bitstream` command: parses and prints; heatvit/bitstream.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatvit.cli_common import Config, JsonFile, finish
from hw.overlay import CLOCK_MHZ


def bitstream(
    config: Config = "zcu102_2048",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the project.")] = Path("build/vivado"),
    clock_mhz: Annotated[
        float, typer.Option("--clock-mhz", metavar="F", help="What the clock wizard is asked for.")
    ] = CLOCK_MHZ,
    json_file: JsonFile = None,
) -> int:
    """Write a Vivado project that builds the overlay of an accelerator for the ZCU102; Vivado itself is not run.

    Its scripts are checked against a model of Vivado's commands only: docs/vivado.md.

    Example: `heatvit bitstream --config zcu102_2048 --out build/vivado`
    """
    from heatvit.bitstream import write_bitstream_project

    return finish(f"written: {out}", write_bitstream_project(config, out, clock_mhz), json_file)
