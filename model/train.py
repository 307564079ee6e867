"""Training in stages: a dense network, then its token selectors, each from the result of the stage before.

Read `train` from top to bottom. An interrupted run goes on where it stopped: every epoch draws from its own seed and
ends with a checkpoint, so the result is that of a run without interruption.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from model.augment import Changes, change_pictures, draw_changes
from model.checkpoint import load_network, save_network
from model.data import Pictures
from model.distributed import ALONE, Mean, Processes
from model.evaluate import Evaluation, evaluate
from model.losses import (
    class_loss,
    keep_ratio_loss,
    logit_divergence_loss,
    logit_regression_loss,
    residual_distillation_loss,
    token_distillation_loss,
)
from model.qat import QatOutput
from model.recipe import Recipe, Stage
from model.resume import History, Record, load_progress, save_progress
from model.selector import gumbel_noise
from model.vit import Normalisation, Output, VisionTransformer
from quant.config import NetworkConfig

WARMUP = 0.05
"""Share of a stage over which the learning rate rises; it then falls as a cosine."""
GRADIENT_NORM = 1.0
NORMALISATION_PICTURES = 1024
"""Mean and standard deviation are measured on this many training pictures."""


class Trained(NamedTuple):
    """The networks of a finished training and what they do on the test pictures."""

    dense: VisionTransformer
    pruned: VisionTransformer
    dense_result: Evaluation
    pruned_result: Evaluation


@dataclass(frozen=True)
class Run:
    """What all stages of one training share."""

    recipe: Recipe
    pictures: Pictures
    out_dir: Path
    progress: Progress
    record: Record
    processes: Processes = ALONE


def train(
    config: NetworkConfig,
    recipe: Recipe,
    train_pictures: Pictures,
    test_pictures: Pictures,
    out_dir: Path,
    progress: Progress,
    start: VisionTransformer | None = None,
    processes: Processes = ALONE,
) -> Trained:
    """Train a network with selectors; out_dir receives dense.safetensors, pruned.safetensors and training.json.

    start gives the weights and the normalisation of the dense stage; without it they are drawn from the seed and
    measured on the training pictures. Several processes train as one, with the same result but for the order of sums.
    Raises ValueError if out_dir holds a different training, or if it diverges.
    """
    if len(recipe.keep_ratios) != len(config.selectors):
        raise ValueError(f"keep_ratios must have {len(config.selectors)} entries, not {recipe.keep_ratios!r}")
    normalisation = start.normalisation if start else measure_normalisation(train_pictures)
    description = {
        "config": config.to_dict(),
        "recipe": recipe.to_dict(),
        "normalisation": {name: list(values) for name, values in asdict(normalisation).items()},
        "num_pictures": len(train_pictures.labels),
    }
    with processes.main_first():
        record = Record.open(out_dir / "training.json", description)
    run = Run(recipe, train_pictures, out_dir, progress, record, processes)

    torch.manual_seed(recipe.seed)
    dense = VisionTransformer(replace(config, selectors=()), normalisation)
    if start:
        dense.load_state_dict({name: start.state_dict()[name] for name in dense.state_dict()})
    dense = finish_stage(run, "dense", recipe.dense, dense)

    torch.manual_seed(recipe.seed)  # again: the dense stage may have been trained now or earlier
    pruned = VisionTransformer(config, normalisation)
    pruned.load_state_dict(dense.state_dict(), strict=False)
    pruned = finish_stage(run, "pruned", recipe.select, pruned, teacher=dense)

    return Trained(
        dense,
        pruned,
        evaluate(dense, dense.config, test_pictures, processes=processes),
        evaluate(pruned, pruned.config, test_pictures, processes=processes),
    )


def finish_stage(
    run: Run, name: str, stage: Stage, network: VisionTransformer, teacher: VisionTransformer | None = None
) -> VisionTransformer:
    """Return the network of a finished stage: from its file if an earlier start got so far, else by training it."""
    path, state = run.out_dir / f"{name}.safetensors", run.out_dir / f"{name}.progress.safetensors"
    if name in run.record.stages:
        return load_network(path).to(run.processes.device)
    network.to(run.processes.device)
    history = fit(run, name, stage, network, state, teacher)
    record_stage(run, name, history, network, path, state)
    return network


def record_stage(run: Run, name: str, history: History, network: VisionTransformer, path: Path, state: Path) -> None:
    """Write the network of a finished stage to path and note the stage; its last checkpoint, state, is removed."""
    run.record.stages[name] = history
    if run.processes.is_main:
        save_network(path, network)
        run.record.write()
        state.unlink(missing_ok=True)


def fit(
    run: Run, name: str, stage: Stage, network: nn.Module, state: Path, teacher: VisionTransformer | None = None
) -> History:
    """Train a network in place for the epochs of a stage; state receives the checkpoint of every epoch.

    network maps uint8 pictures to a model.vit.Output or model.qat.QatOutput; one with selectors needs a teacher. An
    existing state is where training goes on. Returns the history of the stage.
    """
    run.processes.check_batch_size(run.recipe.batch_size)
    optimizer = _optimizer(network, run.recipe, stage)
    history = load_progress(state, network, optimizer) if state.exists() else []
    task = run.progress.add_task(name, total=stage.epochs, completed=len(history))

    def report(done: float) -> None:
        run.progress.update(task, completed=done)

    network.train()
    replica = run.processes.replicate(network)
    with threads(run.recipe.num_threads):
        for epoch in range(len(history), stage.epochs):
            history.append(_train_epoch(run, name, stage, epoch, replica, optimizer, teacher, report))
            if run.processes.is_main:
                save_progress(state, network, optimizer, history)
            run.progress.update(task, completed=epoch + 1, description=f"{name}: loss {history[-1]['loss']:.3f}")
    network.eval()
    return history


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many CPU threads: sums, and so results, depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_epoch(
    run: Run,
    name: str,
    stage: Stage,
    epoch: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    teacher: VisionTransformer | None,
    report: Callable[[float], None],
) -> dict[str, Any]:
    """Run one epoch and return its mean loss, the terms of it before they are weighted, and the keep ratios.

    report receives how many epochs of the stage are done, a fraction, as the epoch goes on.
    """
    recipe, processes, all_labels = run.recipe, run.processes, run.pictures.labels
    num_pictures = len(all_labels)
    rng = np.random.default_rng((recipe.seed, epoch, *name.encode()))
    torch.manual_seed(int(rng.integers(1 << 32)))  # for the selectors' noise
    num_steps = math.ceil(num_pictures / recipe.batch_size)
    losses: defaultdict[str, list[float]] = defaultdict(list)
    ratios = []
    cuts = np.arange(recipe.batch_size, num_pictures, recipe.batch_size)
    for step, batch in enumerate(np.split(rng.permutation(num_pictures), cuts)):
        own = processes.share(batch)
        pixels = run.pictures.load(own)
        drawn = draw_changes(rng, len(batch), pixels.shape[-1], recipe)
        share = processes.share
        changes = Changes(share(drawn.shifts), share(drawn.boxes), share(drawn.is_mirrored))
        pixels = change_pictures(pixels, changes, recipe.max_shift)
        pictures_u8 = torch.from_numpy(pixels).to(processes.device)
        labels = torch.from_numpy(all_labels[own]).to(processes.device)
        position = (epoch * num_steps + step) / (stage.epochs * num_steps)
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * group["factor"] * warmup_cosine(position)
        explored = min(1.0, position / stage.exploration) if stage.exploration else 1.0

        with torch.autocast(processes.device, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            if teacher and explored < 1:
                noise = (1 - explored) * gumbel_noise(len(batch), len(recipe.keep_ratios), teacher.config.num_tokens)
                output = network(pictures_u8, noise=processes.share(noise).to(processes.device))
            else:
                output = network(pictures_u8)
            terms = {"class": class_loss(output.logits, labels, recipe.label_smoothing, processes.mean)}
            if teacher:
                targets = [1 - explored * (1 - ratio) for ratio in recipe.keep_ratios]
                terms |= _teacher_terms(output, teacher, pictures_u8, targets, processes.mean)
        loss = torch.stack([getattr(recipe, f"{term}_weight") * value for term, value in terms.items()]).sum()
        if not loss.isfinite():
            raise ValueError(f"learning_rate of stage {name} must be lower: the loss is {loss.item()} in epoch {epoch}")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        for term, value in {"loss": loss, **terms}.items():
            losses[term].append(value.item())
        ratios.append([processes.mean(mask).item() for mask in output.keep_masks])
        report(epoch + (step + 1) / num_steps)
    means = {term: float(np.mean(values)) for term, values in losses.items()}
    return {**means, "keep_ratios": np.mean(ratios, axis=0).tolist()}


def _teacher_terms(
    output: Output | QatOutput,
    teacher: VisionTransformer,
    pictures_u8: Tensor,
    targets: list[float],
    mean: Mean,
) -> dict[str, Tensor]:
    """Return the losses that a teacher adds: distillation and, for a network with selectors, the keep ratios."""
    with torch.no_grad():
        expected = teacher(pictures_u8)
    terms = {"regression": logit_regression_loss(output.logits, expected.logits, mean)}
    if isinstance(output, Output):  # rounding drowns what little gradient divergence has close to the teacher
        terms["divergence"] = logit_divergence_loss(output.logits, expected.logits, mean)
    else:
        terms["residual"] = residual_distillation_loss(output.residuals, expected.residuals, mean)
    if not output.keep_masks:
        return terms
    if isinstance(output, Output):  # the 8-bit network normalises only CLS at its end
        terms["token"] = token_distillation_loss(output.tokens, expected.tokens, output.keep_masks[-1], mean)
    return {**terms, "ratio": keep_ratio_loss(output.keep_masks, targets, mean)}


def warmup_cosine(position: float) -> float:
    """Factor of the learning rate at a position 0..1 of a stage; not 0 at the first step."""
    return min(1.0, (position + 1e-3) / WARMUP) * 0.5 * (1 + math.cos(math.pi * position))


def _optimizer(network: nn.Module, recipe: Recipe, stage: Stage) -> torch.optim.Optimizer:
    """Return AdamW: matrices decay, vectors and embeddings do not; selectors learn faster than the backbone."""
    groups = []
    for is_selector in (False, True):
        members = [
            (name, values) for name, values in network.named_parameters() if ("selectors." in name) == is_selector
        ]
        factor = recipe.selector_factor if is_selector else 1.0
        for is_decayed in (False, True):
            chosen = [
                values for name, values in members if (name.endswith(".weight") and values.ndim > 1) == is_decayed
            ]
            decay = recipe.weight_decay if is_decayed else 0.0
            rate = factor if is_decayed else factor * stage.vector_factor
            groups.append({"params": chosen, "weight_decay": decay, "factor": rate})
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0)


def measure_normalisation(pictures: Pictures) -> Normalisation:
    """Return mean and standard deviation of each channel over the first training pictures."""
    pixels = pictures.load(np.arange(min(len(pictures.labels), NORMALISATION_PICTURES))) / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    return Normalisation(tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist()))
