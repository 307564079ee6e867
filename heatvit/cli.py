"""The command line: parses, shows progress and prints results; heatvit/flow.py, demo.py and fuzz.py do the work.

Exit codes: 0 done; 1 a comparison failed, or an internal error; 2 bad input, told in one line; 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heatvit.files import write_json
from heatvit.layer_table import layer_table
from heatvit.progress import reporter, show_progress
from hw.synth_resources import SynthesisError
from sim.verilator import BuildError

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
DEBUG_OPTION = "--debug"

app = typer.Typer(
    help="Train Vision Transformers with token selectors, turn them into integers, generate their accelerator and "
    f"prove it bit for bit.\n\nStart with `heatvit demo`. {DEBUG_OPTION} anywhere shows the traceback of an error.",
    add_completion=False,
    rich_markup_mode="markdown",
)

bench_app = typer.Typer(help="Measure the simulated accelerator, and software.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

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
        help="A folder of pictures (with one sub-folder a class if labels matter), an .npz pack, digits, "
        "digits:train or digits:test.",
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


@app.command()
def train(
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="How to train: digits, or a .json or .toml file.")
    ] = "digits",
    network: Network = "digits",
    images: Images = "digits",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the checkpoints.")] = Path("build/train"),
    json_file: JsonFile = None,
) -> int:
    """Train a float network; a second call continues where an interrupted one stopped.

    Example: `heatvit train --recipe digits --out build/digits`
    """
    from heatvit import flow

    with show_progress() as progress:
        result = flow.train_network(recipe, network, images, out, progress)
    return _finish(f"trained: {out}", result, json_file)


@app.command()
def quantize(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Float network, .safetensors.")],
    out: Annotated[Path, typer.Option("--out", metavar="NET.safetensors", help="Integer network to write.")],
    calibrate: Annotated[
        str, typer.Option("--calibrate", metavar="SOURCE", help="Pictures that fix the scales; as --images elsewhere.")
    ] = "digits:train",
    count: Count = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--finetune",
            metavar="NAME|FILE",
            help="Train on in 8 bits, by the quantize stage of this recipe, on the calibration pictures' labels.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option("--teacher", metavar="CHECKPOINT", help="Dense float network that --finetune follows."),
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Turn a float network into integers, with every accumulator bound proven.

    Example: `heatvit quantize build/digits/pruned.safetensors --calibrate digits:train --out build/net.safetensors`
    """
    from heatvit import flow

    if (recipe is None) != (teacher is None):
        raise ValueError("--finetune and --teacher must be given together")
    finetuning = flow.Finetuning(recipe, teacher) if recipe and teacher else None
    with show_progress() as progress:
        result = flow.quantize_network(checkpoint, calibrate, count, out, finetuning, progress)
    return _finish(f"quantized: {out}", result, json_file)


@app.command()
def evaluate(
    network_file: Annotated[
        Path | None, typer.Argument(metavar="[NETWORK]", help="Float checkpoint or integer network.")
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
        from heatvit import flow

        with show_progress() as progress:
            result = flow.evaluate_network(network_file, images, count, reporter(progress))
        return _finish(f"evaluated: {network_file}", result, json_file)
    if weights is None or calibrate is None:
        raise ValueError("--weights needs --calibrate: pictures that are not among --images")
    from heatvit import evaluate as evaluation

    settings = evaluation.Settings(weights, images, calibrate, network, count, has_noise, device)
    with show_progress() as progress:
        result = evaluation.evaluate_quantized(settings, reporter(progress))
    if has_noise:
        _print_table("signal to noise, dB", ("layer", "golden", "rounding"), evaluation.noise_rows(result["snr"]))
    return _finish(f"evaluated: {weights}", result, json_file, hidden=("snr",))


@app.command()
def generate(
    config: Config = "demo",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the Verilog.")] = Path("build/verilog"),
    dsp: Annotated[
        str,
        typer.Option("--dsp", metavar="KIND", help="Multipliers: behavioural (simulation) or dsp48 (for synthesis)."),
    ] = "behavioural",
    json_file: JsonFile = None,
) -> int:
    """Generate the accelerator's Verilog and print its SHA-256.

    Example: `heatvit generate --config demo --out build/verilog`
    """
    from heatvit import hardware

    return _finish(f"generated: {out}", hardware.generate_verilog(config, out, dsp), json_file)


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

    counts, rows = (model.parse_tokens(text) if text else [] for text in (tokens, table))
    result = model.estimate_cycles(network, config, counts, rows)
    _print_table(model.SOURCE, ("", "cycles", "share", "waits for, and cycles lost to"), model.table_rows(result))
    hidden = ("parts", "layers", "units")
    return _finish(model.SOURCE, result, json_file, hidden=hidden)


@app.command()
def synth(
    config: Config = "zcu102_2048",
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Estimate DSPs, LUTs, flip-flops and block RAMs with Yosys, unit by unit, against the ZCU102's.

    Minutes the first time; then only a unit that changed is synthesized. Example: `heatvit synth --config zcu102_2048`
    """
    from heatvit import synth as synthesis

    with show_progress() as progress:
        result = synthesis.estimate_synthesis(config, work, reporter(progress))
    Console().print(synthesis.synthesis_table(result))
    if json_file is not None:
        write_json(json_file, result)
    return 0


@app.command()
def simulate(
    network: Annotated[Path, typer.Argument(metavar="NETWORK.safetensors", help="Integer network.")],
    images: Images = "digits:test",
    count: Annotated[int, typer.Option("--count", min=1, help="Use the first so many pictures.")] = 4,
    config: Config = "demo",
    stall_seed: Annotated[
        int | None, typer.Option("--stall-seed", help="Stall every bus channel at random with this seed.")
    ] = None,
    work: Work = WORK_FOLDER,
    json_file: JsonFile = None,
) -> int:
    """Run pictures on the simulated accelerator and compare every layer with the golden model.

    Exit code 1 if anything differs. Example: `heatvit simulate build/net.safetensors --images my_pictures --count 8`
    """
    from heatvit import hardware

    with show_progress() as progress:
        result = hardware.simulate_network(network, images, count, config, work, reporter(progress), stall_seed)
    return _finish("simulated", result, json_file, failed=result["mismatches"] > 0)


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
    return _finish("fuzzed", result, json_file, failed=result["mismatches"] + result["hangs"] > 0)


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
    _print_result("demo", {**summary, **{f"rtl {name}": value for name, value in rtl.items()}})
    if json_file is not None:
        write_json(json_file, result)
    return 0 if result["rtl"]["mismatches"] == 0 and result["qat_equals_golden"] else EXIT_FAILED


@bench_app.command("cycles")
def bench_cycles(
    weights: Weights,
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
    counts = _whole_numbers("--keep", keep)
    if scale_gmac is not None and not counts:
        raise ValueError("--scale-gmac needs --keep: the work of a dense network is always the same")
    with show_progress() as progress:
        result = bench.bench_cycles(subject, count or batch, batch, counts, scale_gmac, report, reporter(progress))
    Console().print(layer_table(result.get("layers", [])))
    return _finish("measured", result, json_file, failed=result["mismatches"] > 0)


@bench_app.command("model")
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
    settings = [_whole_numbers("--keep", text) for text in keep or []]
    with show_progress() as progress:
        result = benchmark.bench_model(subject, settings, reporter(progress))
    header = ("live tokens", "cycles", "model", "error", "worst layer's error", "worst layer")
    _print_table("cycle model against RTL", header, benchmark.model_table(result))
    return _finish("compared", result, json_file, failed=result["mismatches"] > 0)


@bench_app.command("torch")
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

    counts = _whole_numbers("--tokens", tokens)
    with show_progress() as progress:
        result = speed.bench_torch(network, counts, reporter(progress))
    return _finish("measured", result, json_file)


@bench_app.command("size")
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

    trial = benchmark.Trial(network, config, tuple(_whole_numbers("--keep", keep)), batch, seed)
    with show_progress() as progress:
        result = benchmark.bench_size(trial, work if rtl else None, reporter(progress))
    header = ("memory", "words used", "available", "share", "BRAM36")
    _print_table(f"memories of {config}", header, benchmark.memory_table(result))
    clocks = " / ".join(map(str, benchmark.CLOCKS_MHZ))
    header = ("", "cycles a picture", "utilisation", "DDR bytes", f"frames/s at an assumed {clocks} MHz")
    _print_table(f"{network} on {config}", header, benchmark.cycle_table(result))
    return _finish("sized", result, json_file, failed=result["mismatches"] > 0, hidden=benchmark.TABLED)


def _whole_numbers(option: str, text: str) -> list[int]:
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"{option} must be whole numbers with commas between them, not {text!r}")
    return [int(word) for word in words]


def _finish(
    title: str, result: dict[str, Any], json_file: Path | None, *, failed: bool = False, hidden: tuple[str, ...] = ()
) -> int:
    """Print a result without its hidden values, write all of it as JSON if asked to, and return the exit code."""
    _print_result(title, {name: value for name, value in result.items() if name not in hidden})
    if json_file is not None:
        write_json(json_file, result)
    return EXIT_FAILED if failed else 0


def _print_result(title: str, result: dict[str, Any]) -> None:
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for name, value in result.items():
        table.add_row(escape(name), escape(_brief(value)))
    Console().print(table)


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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
