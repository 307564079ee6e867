"""Latency-aware multi-stage training of token selectors in a network that was trained without them.

Read `prune` from top to bottom: candidate selectors before every block learn what the dense network looks at,
selectors are inserted from the back until the latency limit is met and merged into stages, the package tokens get
their weight, and the network with these stages is trained against the dense one; the next, lower limit starts from the
result. It goes on where it was interrupted. Source: HeatViT (HPCA 2023) section VI.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from model.checkpoint import load_network
from model.data import SubsetPictures, batches
from model.inference import infer
from model.losses import logit_divergence_loss
from model.pruning.insertion import BATCH, Divergence, insert_selectors
from model.pruning.latency import LatencyTable
from model.pruning.package_bias import fit_package_bias
from model.pruning.plan import PruningPlan
from model.pruning.warm_start import falling_shares, ranking_loss, set_keep_ratios, token_saliency
from model.resume import History, load_progress, save_progress
from model.train import Run, fit, record_stage, threads, warmup_cosine
from model.vit import VisionTransformer
from quant.network import U8

BIAS_PICTURES = 128
"""As many training pictures choose the weight of the package tokens."""
WARM_START, INSERTION, LIMIT = "warm start", "insertion", "limit"
"""Words that the names of the steps begin with."""


class Pruned(NamedTuple):
    """A network under one latency limit.

    limit and predicted_cycles a picture, by the latency table; keep_ratios of the blocks that have a selector; on the
    held-out pictures: divergence from the dense network in nats, agreement of the classes 0..1, mean live tokens.
    """

    network: VisionTransformer
    limit: float
    predicted_cycles: float
    keep_ratios: dict[int, float]
    divergence: float
    agreement: float
    num_tokens: list[float]


def prune(run: Run, plan: PruningPlan, dense: VisionTransformer, table: LatencyTable) -> Iterator[Pruned]:
    """Train a network for each limit of the plan, and yield it; run.out_dir receives their checkpoints.

    dense has no selectors and stays as it is; run.pictures are all pictures of the plan.
    """
    config, numbers = dense.config, np.arange(len(run.pictures.labels))
    if plan.insertion.first_block >= config.depth:
        raise ValueError(f"first_block must be below the depth {config.depth}, not {plan.insertion.first_block!r}")
    if plan.held_out >= len(numbers):
        raise ValueError(f"held_out must be below the number of pictures, {len(numbers)}, not {plan.held_out!r}")
    held_out_u8 = run.pictures.load(numbers[: plan.held_out])
    run = replace(run, pictures=SubsetPictures(run.pictures, numbers[plan.held_out :]))
    dense.to(run.processes.device).eval()
    with threads(plan.recipe.num_threads):
        candidates = _warm_start(run, plan, dense)
        divergence = Divergence(candidates, held_out_u8)
        start = candidates
        for limit in plan.limits:
            keep = _insert(run, plan, divergence, table, limit)
            network = _train(run, plan, _assemble(start, candidates, keep), dense, keep, limit, held_out_u8)
            yield _judge(network, dense, table, keep, limit, held_out_u8)
            start = network


def _warm_start(run: Run, plan: PruningPlan, dense: VisionTransformer) -> VisionTransformer:
    """Return the dense network with a trained selector before every block that may get one."""
    path, state = run.out_dir / "candidates.safetensors", run.out_dir / "candidates.progress.safetensors"
    torch.manual_seed(plan.recipe.seed)
    blocks = tuple(range(plan.insertion.first_block, dense.config.depth))
    config = replace(dense.config, selectors=blocks)
    network = VisionTransformer(config, dense.normalisation, dense.kernels, plan.has_package)
    network.load_state_dict(dense.state_dict(), strict=False)
    network.to(run.processes.device)
    if WARM_START not in run.record.stages:
        history = _train_candidates(run, plan, dense, network, state)
        with run.processes.main_first():
            record_stage(run, WARM_START, history, network, path, state)
    network.load_state_dict(load_network(path).state_dict())  # every process has those of the main one
    return network


def _train_candidates(
    run: Run, plan: PruningPlan, dense: VisionTransformer, network: VisionTransformer, state: Path
) -> History:
    """Train the selectors of network in place; state receives the checkpoint of every epoch."""
    optimizer = torch.optim.AdamW(network.selectors.parameters(), lr=0.0, weight_decay=plan.recipe.weight_decay)
    history = load_progress(state, network, optimizer) if state.exists() else []
    task = run.progress.add_task(WARM_START, total=plan.warm_start.epochs, completed=len(history))
    for epoch in range(len(history), plan.warm_start.epochs):
        history.append(_warm_start_epoch(run, plan, epoch, dense, network, optimizer))
        if run.processes.is_main:
            save_progress(state, network, optimizer, history)
        run.progress.update(task, advance=1, description=f"{WARM_START}: loss {history[-1]['loss']:.3f}")
    return history


def _warm_start_epoch(
    run: Run,
    plan: PruningPlan,
    epoch: int,
    dense: VisionTransformer,
    network: VisionTransformer,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Show every picture once, mirrored in every second epoch; several processes do the same."""
    recipe, blocks = plan.recipe, network.config.selectors
    order = np.random.default_rng((recipe.seed, epoch)).permutation(len(run.pictures.labels))
    shares, losses = falling_shares(blocks, network.config.depth), []
    for step, (pixels, _) in enumerate(batches(run.pictures, recipe.batch_size, order)):
        position = (epoch + step * recipe.batch_size / len(order)) / plan.warm_start.epochs
        for group in optimizer.param_groups:
            group["lr"] = plan.warm_start.learning_rate * warmup_cosine(position)
        pictures_u8 = torch.from_numpy(pixels).to(run.processes.device)
        with torch.autocast(run.processes.device, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            entering, saliency = token_saliency(dense, pictures_u8.flip(-1) if epoch % 2 else pictures_u8, blocks)
        loss = ranking_loss(network, entering, saliency, shares)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.selectors.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return {"loss": float(np.mean(losses))}


def _insert(run: Run, plan: PruningPlan, divergence: Divergence, table: LatencyTable, limit: float) -> dict[int, float]:
    """Return block -> keep ratio for a limit, from the record if it was found before."""
    name = f"{INSERTION} {limit:.0f}"
    if name not in run.record.stages:
        rule, config = plan.insertion, divergence.candidates.config
        task = run.progress.add_task(name, total=None)
        keep = insert_selectors(
            divergence,
            table,
            config,
            rule,
            limit,
            lambda block: run.progress.update(task, description=f"{name}: block {block}"),
        )
        keep = run.processes.from_main(keep)
        run.progress.update(task, total=1, completed=1)
        run.record.stages[name] = [{"block": block, "keep_ratio": ratio} for block, ratio in keep.items()]
        if run.processes.is_main:
            run.record.write()
    return {int(stage["block"]): float(stage["keep_ratio"]) for stage in run.record.stages[name]}


def _assemble(start: VisionTransformer, candidates: VisionTransformer, keep: dict[int, float]) -> VisionTransformer:
    """Return a new network: backbone and selectors of `start`, and of the candidates where it has none."""
    blocks = tuple(keep)
    network = VisionTransformer(
        replace(start.config, selectors=blocks), start.normalisation, start.kernels, start.has_package
    )
    backbone = {name: value for name, value in start.state_dict().items() if not name.startswith("selectors.")}
    network.load_state_dict(backbone, strict=False)
    for stage, block in enumerate(blocks):
        source = start if block in start.config.selectors else candidates
        selector = source.selectors[source.config.selectors.index(block)]
        network.selectors[stage].load_state_dict(selector.state_dict())
    return network.to(start.cls_token.device)


def _train(
    run: Run,
    plan: PruningPlan,
    network: VisionTransformer,
    dense: VisionTransformer,
    keep: dict[int, float],
    limit: float,
    held_out_u8: U8,
) -> VisionTransformer:
    """Return the network trained for its keep ratios, from its file if it was trained before."""
    name, ratios = f"{LIMIT} {limit:.0f}", tuple(keep.values())
    path, state = (run.out_dir / f"{LIMIT}_{limit:.0f}{suffix}.safetensors" for suffix in ("", ".progress"))
    if name in run.record.stages:
        network.load_state_dict(load_network(path).state_dict())
        return network.eval()
    held_out = torch.from_numpy(held_out_u8).to(run.processes.device)
    if not state.exists():
        if network.has_package:
            first_u8 = run.pictures.load(np.arange(min(BIAS_PICTURES, len(run.pictures.labels))))
            fit_package_bias(network, torch.from_numpy(first_u8).to(run.processes.device), ratios, dense)
        set_keep_ratios(network, held_out, ratios)
    stage_run = replace(run, recipe=replace(plan.recipe, keep_ratios=ratios))
    history: History = fit(stage_run, name, plan.recipe.select, network, state, dense)
    set_keep_ratios(network, held_out, ratios)  # as pictures that it was not trained on have it
    record_stage(run, name, history, network, path, state)
    return network


def _judge(
    network: VisionTransformer,
    dense: VisionTransformer,
    table: LatencyTable,
    keep: dict[int, float],
    limit: float,
    held_out_u8: U8,
) -> Pruned:
    pictures = torch.split(torch.from_numpy(held_out_u8).to(network.cls_token.device), BATCH)
    expected = torch.cat([infer(dense, batch, dense.kernels).logits for batch in pictures])
    found = [infer(network, batch, network.kernels) for batch in pictures]
    logits = torch.cat([each.logits for each in found])
    counts = zip(*(each.num_tokens for each in found), strict=True)
    return Pruned(
        network,
        limit,
        table.cycles(network.config, keep),
        keep,
        float(logit_divergence_loss(logits, expected)),
        (logits.argmax(-1) == expected.argmax(-1)).float().mean().item(),
        [torch.cat(stage).float().mean().item() for stage in counts],
    )
