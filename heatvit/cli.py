"""The command line: parses, shows progress and prints results; heatvit/flow.py, demo.py and fuzz.py do the work.

Exit codes: 0 done; 1 a comparison failed, or an internal error; 2 bad input, told in one line; 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from heatvit import cli_backend, cli_bench, cli_bitstream, cli_compare, cli_run, cli_study, cli_train
from heatvit.cli_common import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    WORK_FOLDER,
    Config,
    Count,
    Images,
    JsonFile,
    Network,
    Work,
    finish,
    is_given,
    print_result,
    print_table,
    whole_numbers,
)
from heatvit.files import write_json
from heatvit.progress import reporter, show_progress
from hw.synth_resources import SynthesisError
from sim.verilator import BuildError

DEBUG_OPTION = "--debug"

app = typer.Typer(
    help="Train Vision Transformers with token selectors, turn them into integers, generate their accelerator and "
    f"prove it bit for bit.\n\nStart with `heatvit demo`. {DEBUG_OPTION} anywhere shows the traceback of an error.",
    add_completion=False,
    rich_markup_mode="markdown",
)

app.add_typer(cli_bench.app, name="bench")
app.add_typer(cli_study.app, name="study")


app.command()(cli_train.train)
app.command()(cli_train.quantize)
app.command("compile")(cli_run.compile_command)
app.command("run")(cli_run.run_command)
app.command()(cli_bitstream.bitstream)
app.command()(cli_compare.compare)


@app.command()
def evaluate(
    context: typer.Context,
    network_file: Annotated[
        Path | None, typer.Argument(metavar="[NETWORK]", help="Float network of heatvit train, or integer network.")
    ] = None,
    images: Images = "digits:test",
    count: Count = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Instead of NETWORK: a float checkpoint, ours or with timm's names (.safetensors, .npz, .pth), to "
            "quantize and to compare with its integers.",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", metavar="SOURCE", help="Pictures that fix the scales of --weights; as --images."),
    ] = None,
    network: Annotated[
        str, typer.Option("--network", metavar="NAME|FILE.json", help="Topology of --weights with timm's names.")
    ] = "deit_tiny",
    has_noise: Annotated[
        bool, typer.Option("--snr", help="With --weights: also the signal-to-noise ratio of every layer, worst first.")
    ] = False,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="With --weights: cpu or cuda.")] = "cpu",
    json_file: JsonFile = None,
) -> int:
    """Measure a network on labelled pictures, or a float checkpoint against its own integers.

    Of a NETWORK: top-1, kept tokens and multiply-accumulates. Of --weights, quantized after training: top-1, top-5 and
    speed of both on the same pictures, their agreement, and McNemar's p.

    Example: `heatvit evaluate build/net.safetensors --images digits:test`

    Example: `heatvit evaluate --weights deit_tiny.npz --images PICTURES --calibrate OTHER_PICTURES --json FILE`
    """
    if (network_file is None) == (weights is None):
        raise ValueError("give either NETWORK or --weights")
    if network_file is not None:
        only_weights = {"--calibrate": "calibrate", "--network": "network", "--snr": "has_noise", "--device": "device"}
        if ignored := [option for option, name in only_weights.items() if is_given(context, name)]:
            raise ValueError(f"{' and '.join(ignored)} must come with --weights, not with NETWORK")
        from heatvit import flow

        with show_progress() as progress:
            result = flow.evaluate_network(network_file, images, count, reporter(progress))
        return finish(f"evaluated: {network_file}", result, json_file)
    if weights is None or calibrate is None:
        raise ValueError("--weights needs --calibrate: pictures that are not among --images")
    from heatvit import evaluate as evaluation

    settings = evaluation.Settings(weights, images, calibrate, network, count, has_noise, device)
    with show_progress() as progress:
        result = evaluation.evaluate_quantized(settings, progress)
    if has_noise:
        print_table("signal to noise, dB", ("layer", "golden", "rounding"), evaluation.noise_rows(result["snr"]))
    return finish(f"evaluated: {weights}", result, json_file, hidden=("snr",))


app.command()(cli_backend.generate)


@app.command()
def cycles(
    network: Network = "deit_tiny",
    config: Config = "zcu102_2048",
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="N,N,..", help="Live tokens after each selector; none: no selectors.")
    ] = "",
    table: Annotated[
        str, typer.Option("--table", metavar="N,N,..", help="Also a block and a selector at these token counts.")
    ] = "",
    json_file: JsonFile = None,
) -> int:
    """Estimate the cycles of a network with the cycle model: no weights and no simulation.

    Example: `heatvit cycles --network deit_tiny --config zcu102_2048 --tokens 88,45,32`
    """
    from heatvit import cycles as model

    counts, rows = (whole_numbers(option, text) for option, text in (("--tokens", tokens), ("--table", table)))
    result = model.estimate_cycles(network, config, counts, rows)
    print_table(model.SOURCE, ("", "cycles", "share", "waits for, and cycles lost to"), model.table_rows(result))
    hidden = ("parts", "layers", "units")
    return finish(model.SOURCE, result, json_file, hidden=hidden)


@app.command()
def synth(
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="NAME|FILE.json", help="Accelerator [default: zcu102_2048; on ecp5, ecp5]"),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="CHIP", help="zcu102 (estimate) or ecp5 (placed, routed, bitstream).")
    ] = "zcu102",
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Estimate what an accelerator takes of the ZCU102, unit by unit with Yosys; or place and route it on an ECP5.

    Minutes the first time; then only what changed runs again. Example: `heatvit synth --config zcu102_2048`

    Example: `heatvit synth --target ecp5 --config ecp5`
    """
    if target == "ecp5":
        from heatvit import place

        with show_progress() as progress:
            placed = place.place_ecp5(config or "ecp5", work, reporter(progress))
        Console().print(place.placement_table(placed))
        return finish("placed and routed", placed, json_file, hidden=("utilisation", "script", "source"))
    if target != "zcu102":
        raise ValueError(f"--target must be zcu102 or ecp5, not {target!r}")
    from heatvit import synth as synthesis

    with show_progress() as progress:
        result = synthesis.estimate_synthesis(config or "zcu102_2048", work, reporter(progress))
    Console().print(synthesis.synthesis_table(result))
    Console().print(synthesis.depth_table(result))
    if json_file is not None:
        write_json(json_file, result)
    return 0


app.command()(cli_backend.simulate)


@app.command()
def fuzz(
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same runs.")] = 0,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Random networks to try.")] = 50,
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Compare golden model, machine and RTL on random networks, accelerators, pictures and bus stalls.

    Exit code 1 if anything differs or hangs. Example: `heatvit fuzz --seed 7 --runs 50 --json build/fuzz.json`
    """
    from heatvit import fuzz as fuzzing

    with show_progress() as progress:
        result = fuzzing.fuzz(seed, runs, work, reporter(progress))
    return finish("fuzzed", result, json_file, failed=result["mismatches"] + result["hangs"] > 0)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of everything that is made.")] = Path(
        "build/demo"
    ),
    json_file: JsonFile = None,
) -> int:
    """Train, quantize, generate, simulate and report on handwritten digits; a second call reuses what is up to date.

    Writes report.html and report.json. Example: `heatvit demo --out build/demo`
    """
    from heatvit import demo as demonstration

    with show_progress() as progress:
        result = demonstration.run_demo(out, progress)
    print(f"report: {out / 'report.html'}")
    summary = {name: result[name] for name in ("accuracy", "macs", "qat_equals_golden", "seconds")}
    rtl = {name: result["rtl"][name] for name in ("images", "layers_compared", "mismatches")}
    print_result("demo", {**summary, **{f"rtl {name}": value for name, value in rtl.items()}})
    if json_file is not None:
        write_json(json_file, result)
    return 0 if result["rtl"]["mismatches"] == 0 and result["qat_equals_golden"] else EXIT_FAILED


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code; without --debug, every error is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    is_debugging = DEBUG_OPTION in arguments
    command = typer.main.get_command(app)
    words = [argument for argument in arguments if argument != DEBUG_OPTION] or ["--help"]
    try:
        # typer turns an interrupt into this code, or into Abort; --help gives None.
        exit_code = command.main(words, prog_name="heatvit", standalone_mode=False) or 0
        return _say("interrupted", exit_code) if exit_code == EXIT_INTERRUPTED else int(exit_code)
    except Exception as error:
        if is_debugging:
            traceback.print_exc()
        return _tell(error)


def _tell(error: Exception) -> int:
    """Print an error in one line on stderr and return its exit code."""
    if isinstance(error, typer.Abort):
        return _say("interrupted", EXIT_INTERRUPTED)
    if usage := getattr(error, "format_message", None):  # a usage error; its class moves between versions of typer
        return _say(f"{usage()} (heatvit COMMAND --help explains)", EXIT_BAD_INPUT)
    if isinstance(error, ValueError | OSError | BuildError | SynthesisError):
        return _say(str(error), EXIT_BAD_INPUT)
    return _say(f"internal error, {DEBUG_OPTION} shows where: {type(error).__name__}: {error}", EXIT_FAILED)


def _say(message: str, exit_code: int) -> int:
    print(f"heatvit: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
