"""The commands that make networks, `heatvit train` and `heatvit quantize`: parse, show progress, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from heatvit.cli_common import Count, JsonFile, Network, finish
from heatvit.progress import show_progress


def train(
    plan: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Put selectors into a trained network under latency limits, by this .toml or .json file, which says "
            "everything but --out and the device.",
        ),
    ] = None,
    no_package: Annotated[
        bool,
        typer.Option("--no-package", help="With --config: an ablation whose pruned tokens leave no package token."),
    ] = False,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="How to train: digits, or a .json or .toml file.")
    ] = "digits",
    network: Network = "digits",
    images: Annotated[
        str,
        typer.Option(
            "--images",
            metavar="SOURCE",
            help="Labelled pictures: a folder with one sub-folder a class, or with train and val that hold them, a "
            "data set saved by Hugging Face's datasets, an .npz or .npz.xz pack, or digits.",
        ),
    ] = "digits",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the checkpoints.")] = Path("build/train"),
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cpu, or cuda: one device a process.")
    ] = "cpu",
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            metavar="N",
            help="Processes on this machine that share each batch [default: what --config says, or 1]",
        ),
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Train a network from scratch, or selectors in a trained one; a second call continues an interrupted one.

    Example: `heatvit train --recipe digits --out build/digits`

    Example: `heatvit train --config configs/deit_tiny_heatvit.toml --out build/deit_tiny_heatvit`

    Several processes give the result of one but for the order of sums; on several machines torchrun starts them:
    `torchrun --nproc-per-node 2 -m heatvit train --recipe digits`
    """
    if plan is None and no_package:
        raise ValueError("--no-package needs --config")
    if plan is not None and (recipe, network, images) != ("digits", "digits", "digits"):
        raise ValueError(f"--config {plan} says everything: leave out --recipe, --network and --images")

    from model.launch import is_started_by_torchrun, run_together

    arguments = (plan, no_package, recipe, network, images, out, device)
    if is_started_by_torchrun():
        if processes is not None:
            raise ValueError("--processes must be left to torchrun, which started this process")
        result, is_main = _train(*arguments)
    elif (count := processes or _processes(plan, device)) > 1:
        result, is_main = run_together(count, _train, *arguments)
    else:
        result, is_main = _train(*arguments)
    failed = any(point.get("qat_mismatches") for point in result.get("points", ()))
    return finish(f"trained: {out}", result, json_file, failed=failed) if is_main else 0


def _processes(plan: Path | None, device: str) -> int:
    """Return as many processes as a training file asks for, on a GPU as many as there are of these."""
    from model.pruning.plan import load_plan

    count = load_plan(plan).processes if plan else 1
    if device != "cuda":
        return count
    import torch

    return max(1, min(count, torch.cuda.device_count()))


def _train(
    plan: Path | None, no_package: bool, recipe: str, network: str, images: str, out: Path, device: str
) -> tuple[dict[str, Any], bool]:
    """Train in this process, alone or as one of several; return the result and whether this is the main one."""
    from heatvit import flow
    from heatvit.prune import train_by_plan
    from model.distributed import open_processes

    with open_processes(device) as processes, show_progress(processes.is_main) as progress:
        if plan is not None:
            result = train_by_plan(plan, no_package, out, progress, processes)
        else:
            result = flow.train_network(recipe, network, images, out, progress, processes)
        return result, processes.is_main


def quantize(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Float network: ours, or with timm's names.")
    ],
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
    network: Annotated[
        str, typer.Option("--network", metavar="NAME|FILE.json", help="Topology of a CHECKPOINT with timm's names.")
    ] = "deit_tiny",
    json_file: JsonFile = None,
) -> int:
    """Turn a float network into integers, with every accumulator bound proven.

    Example: `heatvit quantize build/digits/pruned.safetensors --calibrate digits:train --out build/net.safetensors`

    Training in 8 bits runs in several processes as `heatvit train` does.
    """
    from heatvit import flow
    from model.distributed import open_processes

    if (recipe is None) != (teacher is None):
        raise ValueError("--finetune and --teacher must be given together")
    finetuning = flow.Finetuning(recipe, teacher) if recipe and teacher else None
    with open_processes() as processes, show_progress(processes.is_main) as progress:
        result = flow.quantize_network(checkpoint, calibrate, count, out, finetuning, progress, processes, network)
    return finish(f"quantized: {out}", result, json_file) if processes.is_main else 0
