"""The commands that make hardware and prove it, by either backend: parse, show progress, print."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from heatvit.cli_common import WORK_FOLDER, Config, Images, JsonFile, Work, finish, is_given
from heatvit.progress import reporter, show_progress
from hw.hls.block import Io


class Backend(Enum):
    """Who makes the hardware: our generated RTL, or hls4ml."""

    RTL = "rtl"
    HLS = "hls"


BackendOption = Annotated[
    Backend,
    typer.Option("--backend", help="rtl: the whole accelerator in Verilog. hls: one block of a network in HLS C++."),
]
BlockOption = Annotated[
    str | None,
    typer.Option("--block", metavar="NAME", help="With --backend hls: selector:S, mlp:B, softmax:B or head."),
]
IoOption = Annotated[
    Io,
    typer.Option("--io", help="With --backend hls: all values at once, or one token after the other through FIFOs."),
]


def generate(
    context: typer.Context,
    network: Annotated[
        Path | None, typer.Argument(metavar="[NETWORK.safetensors]", help="With --backend hls: integer network.")
    ] = None,
    backend: BackendOption = Backend.RTL,
    config: Config = "demo",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the Verilog or the project [default: build/verilog|hls]"),
    ] = None,
    dsp: Annotated[
        str,
        typer.Option("--dsp", metavar="KIND", help="Multipliers: behavioural (simulation) or dsp48 (for synthesis)."),
    ] = "behavioural",
    block: BlockOption = None,
    io: IoOption = Io.STREAM,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="SOURCE", help="With --backend hls: its first picture gives test vectors for Vitis."
        ),
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Generate the accelerator's Verilog and print its SHA-256, or a block of a network as an hls4ml project.

    Example: `heatvit generate --config demo --out build/verilog`

    Example: `heatvit generate --backend hls build/net.safetensors --block mlp:3 --io stream --out build/hls`
    """
    if backend is Backend.RTL:
        _refuse(context, backend, {"NETWORK": "network", "--block": "block", "--io": "io", "--images": "images"})
        from heatvit import hardware

        folder = out or Path("build/verilog")
        return finish(f"generated: {folder}", hardware.generate_verilog(config, folder, dsp), json_file)
    _refuse(context, backend, {"--config": "config", "--dsp": "dsp"})
    if network is None or block is None:
        raise ValueError("--backend hls needs a NETWORK and --block")
    from heatvit import hls

    folder = out or Path("build/hls")
    return finish(f"generated: {folder}", hls.generate_project(network, block, io, folder, images), json_file)


def simulate(
    context: typer.Context,
    network: Annotated[Path, typer.Argument(metavar="NETWORK.safetensors", help="Integer network.")],
    backend: BackendOption = Backend.RTL,
    images: Images = "digits:test",
    count: Annotated[int, typer.Option("--count", min=1, help="Use the first so many pictures.")] = 4,
    config: Config = "demo",
    stall_seed: Annotated[
        int | None, typer.Option("--stall-seed", help="Stall every bus channel at random with this seed.")
    ] = None,
    block: BlockOption = None,
    io: IoOption = Io.STREAM,
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Run pictures on the simulated accelerator, or on one block's HLS C++, and compare with the golden model.

    Exit code 1 if anything differs. Example: `heatvit simulate build/net.safetensors --images my_pictures --count 8`

    Example: `heatvit simulate --backend hls build/net.safetensors --block selector:0 --count 8`
    """
    if backend is Backend.RTL:
        _refuse(context, backend, {"--block": "block", "--io": "io"})
        from heatvit import hardware

        with show_progress() as progress:
            result = hardware.simulate_network(network, images, count, config, work, reporter(progress), stall_seed)
        return finish("simulated", result, json_file, failed=result["mismatches"] > 0)
    _refuse(context, backend, {"--config": "config", "--stall-seed": "stall_seed"})
    if block is None:
        raise ValueError("--backend hls needs --block")
    from heatvit import hls

    with show_progress() as progress:
        result = hls.simulate_block(network, block, io, images, count, work, reporter(progress))
    return finish(f"simulated: {block}", result, json_file, failed=result["mismatches"] > 0)


def _refuse(context: typer.Context, backend: Backend, options: dict[str, str]) -> None:
    """Raise ValueError naming what was given although this backend has no use for it."""
    if ignored := [option for option, name in options.items() if is_given(context, name)]:
        raise ValueError(f"{' and '.join(ignored)} cannot come with --backend {backend.value}")
