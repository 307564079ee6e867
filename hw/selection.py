"""A token selector as steps: both branches on groups of heads, the decision, and the compaction of the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hw.isa import Drain, Opcode
from hw.schedule import ROW_PARTS
from hw.site import Site
from hw.step import Tensor, operand, result
from hw.tiling import Channels, SelectorTiling
from hw.weights import join_heads, pick
from quant.approx import gelu_constants
from quant.network import GeluLayer, Selector


def add_selector(sites: Sequence[Site], selector: Selector) -> None:
    """One token selector for every picture; its index is the number of COMPACTs so far."""
    name = f"selectors.{sites[0].schedule.stage}"
    _add_ones(sites[0], selector, name)
    normed = [site.add_norm(f"{name}.norm", selector.norm) for site in sites]
    for site, source in zip(sites, normed, strict=True):
        scores = _add_scores(site, selector, name, source)
        for following in sites[site.picture + 1 : site.picture + 2]:
            _add_ones(following, selector, name)  # before SELECT, which waits for the scores
        _add_decision(site, selector, name, *scores)


def _add_ones(site: Site, selector: Selector, name: str) -> None:
    """The ones of the pooled mean, which are the same for every row tile, and its row scales."""
    site.schedule.emit(
        f"{name}.pooled",
        Opcode.UNIFORM,
        dst_base=site.uniform.base,
        row_base=site.row_scales(site.picture),
        mult=selector.pool_mult,
        shift=selector.pool_shift,
    )


def _add_scores(site: Site, selector: Selector, name: str, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Both branches; release `normed` and return the token scores and the head scores."""
    schedule, tiling = site.schedule, SelectorTiling.of(site.network, site.depth)
    by_head = Channels.dense(site.network.num_heads)
    head_score, feature = site.take(by_head), site.take(tiling.local)
    _add_local(site, tiling, selector, name, normed, feature)
    _add_head_branch(site, selector, name, normed, head_score)  # beside the values of the last group
    schedule.release(normed)
    _add_pooled(site, tiling, name, tiling.groups - 1, feature)
    schedule.tap(f"{name}.local", feature, "int8", tiling.local)
    schedule.tap(f"{name}.pooled", feature, "int8", tiling.pooled, rows=1)

    token1, token2, token_score = site.take(tiling.token1), site.take(tiling.token2), site.take(by_head)
    half, quarter = tiling.half_words, tiling.quarter_words
    inputs = Channels.dense(tiling.heads * tiling.half)
    for group in range(tiling.groups):
        source, target = feature.part(2 * group * half), token1.part(group * half)
        _add_group(site, tiling, selector.token1, f"{name}.token1", group, tiling.joined, source, target)
    schedule.tap(f"{name}.token1", token1, "int8", tiling.token1)
    for group in range(tiling.groups):
        source, target = token1.part(group * half), token2.part(group * quarter)
        _add_group(site, tiling, selector.token2, f"{name}.token2", group, inputs, source, target)
    schedule.tap(f"{name}.token2", token2, "int8", tiling.token2)
    joined = join_heads(selector.token_score, tiling.token2)
    schedule.linear(f"{name}.token_score", Drain.SIGMOID, joined, operand(token2), token_score)
    schedule.tap(f"{name}.token_score", token_score, "uint8", by_head)
    schedule.release(feature, token1, token2)
    return token_score, head_score


def _add_head_branch(site: Site, selector: Selector, name: str, normed: Tensor, head_score: Tensor) -> None:
    schedule, channels = site.schedule, Channels.dense(site.network.head_branch_hidden)
    hidden = site.take(channels)
    schedule.gelu_linear(f"{name}.head1", selector.head1, operand(normed), hidden, gelu_constants(1.0))
    schedule.tap(f"{name}.head1", hidden, "int8", channels)
    schedule.linear(f"{name}.head_score", Drain.SIGMOID, selector.head_score, operand(hidden), head_score)
    schedule.tap(f"{name}.head_score", head_score, "uint8", Channels.dense(site.network.num_heads))
    schedule.release(hidden)


def _add_group(
    site: Site,
    tiling: SelectorTiling,
    layer: GeluLayer,
    name: str,
    group: int,
    inputs: Channels,
    source: Tensor,
    target: Tensor,
    parts: int = 1,
) -> None:
    """A per-head layer for one group of heads; `inputs` are the group's input channels, from the start of source."""
    linear = join_heads(pick(layer.linear, group * tiling.heads, tiling.heads), inputs)
    src = operand(source, inputs.words(site.depth))
    site.schedule.gelu_linear(name, replace(layer, linear=linear), src, target, gelu_constants(1.0), parts)


def _add_local(
    site: Site, tiling: SelectorTiling, selector: Selector, name: str, normed: Tensor, feature: Tensor
) -> None:
    """The local half of every group's features, and the pooled half of all groups but the last."""
    schedule, half = site.schedule, tiling.half_words
    inputs = Channels.dense(tiling.heads * tiling.dim)
    for group in range(tiling.groups):
        source, local = normed.part(group * inputs.words(site.depth)), feature.part(2 * group * half)
        parts = 1 if group else ROW_PARTS
        _add_group(site, tiling, selector.local, f"{name}.local", group, inputs, source, local, parts)
        values = site.operands.values_result(site.picture * tiling.groups + group)
        schedule.emit(f"{name}.pooled", Opcode.VALUES, **operand(local, half), **values)
        if group:
            _add_pooled(site, tiling, name, group - 1, feature)


def _add_pooled(site: Site, tiling: SelectorTiling, name: str, group: int, feature: Tensor) -> None:
    """The pooled mean of a group is a product with ones, and every row gets a copy."""
    site.schedule.emit(
        f"{name}.pooled",
        Opcode.GEMM,
        mode=Drain.ROW_SCALE,
        src_base=site.uniform.base,  # a stride of 0: every row tile reads the same ones
        **site.operands.values(site.picture * tiling.groups + group),
        **result(feature.part((2 * group + 1) * tiling.half_words)),
        cols=tiling.heads * tiling.half,
        row_base=site.row_scales(site.picture),
    )


def _add_decision(site: Site, selector: Selector, name: str, token_score: Tensor, head_score: Tensor) -> None:
    """SELECT and COMPACT; releases the scores."""
    schedule = site.schedule
    schedule.emit(
        f"{name}.keep_score",
        Opcode.SELECT,
        src_base=token_score.base,
        src_stride=token_score.stride,
        aux_base=head_score.base,
        aux_stride=head_score.stride,
        heads=site.network.num_heads,
        threshold=selector.threshold_u16,
    )
    schedule.release(token_score, head_score)
    index = site.picture * len(site.network.selectors) + schedule.stage
    schedule.emit(f"{name}.package", Opcode.COMPACT, **operand(site.residual), index=index)
    schedule.stage += 1
    schedule.tap_tokens(f"{name}.tokens")
    schedule.tap(f"{name}.package", site.residual, "int16", site.dense)
