"""The `heatvit compare` command: parses, shows progress and prints; heatvit/compare.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatvit.cli_common import JsonFile, Network, print_table, whole_numbers
from heatvit.files import write_json, write_text
from heatvit.platforms import ASSUMPTIONS, load_platforms
from heatvit.progress import reporter, show_progress


def compare(
    network: Network = "deit_tiny",
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="N,N,..", help="Live tokens that each selector leaves.")
    ] = "88,45,32",
    assumptions: Annotated[
        Path, typer.Option("--assumptions", metavar="FILE", help="Assumed numbers with their sources, .json or .toml.")
    ] = ASSUMPTIONS,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Also draw energy against the clock.")
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Compare latency, throughput and energy of this processor with those that the FPGA is modelled to have.

    Each figure is labelled measured, modelled or assumed. Example: `heatvit compare --svg build/energy.svg`
    """
    from heatvit import compare as comparison

    counts = whole_numbers("--tokens", tokens)
    platforms = load_platforms(assumptions)
    with show_progress() as progress:
        result = comparison.compare_platforms(network, counts, platforms, reporter(progress))
    print_table(comparison.SOURCE, comparison.HEADER, comparison.platform_rows(result))
    print_table("sweep of assumed clock and power", comparison.SWEEP_HEADER, comparison.sweep_rows(result))
    print_table("assumptions", ("name", "source"), list(platforms.sources.items()))
    if svg is not None:
        write_text(svg, comparison.platform_drawing(result).file())
    if json_file is not None:
        write_json(json_file, result)
    return 0
