"""The layers of the network as steps: patch embedding, transformer block, token selector and classification head."""

from __future__ import annotations

from dataclasses import dataclass

from hw.config import AccelConfig
from hw.isa import Drain, Memory, Opcode, Region
from hw.schedule import Schedule, Tensor, operand, result
from hw.tiling import Channels, SelectorTiling, ceil_div, head_channels
from hw.weights import join_heads, pick, place_layer, with_linear
from quant.approx import gelu_constants
from quant.config import NetworkConfig
from quant.network import Block, IntegerNetwork, LinearLayer, NormLayer, Selector

EMBEDDING_RUNS = 4
"""Column runs of the patch embedding: the array starts on the first while the weights of the others are loaded."""


@dataclass(frozen=True)
class OperandBuffers:
    """The part of WEIGHT that KEYS and VALUES fill: two buffers each, so that a head loads while another computes.

    key_words and value_words are the size of one buffer, value_stride the words of one column tile of values.
    """

    key_words: int
    value_words: int
    value_stride: int

    @classmethod
    def of(cls, network: NetworkConfig, config: AccelConfig) -> OperandBuffers:
        """Size the buffers for all tokens; the pooled mean of a selector uses those of the values."""
        head_words = head_channels(network, config.depth).words(config.depth) // network.num_heads
        channel_words = max(
            [head_words] + [SelectorTiling.of(network, config.depth).half_words for _ in network.selectors]
        )
        value_stride = ceil_div(network.num_tokens, config.depth)
        return cls(
            key_words=ceil_div(network.num_tokens, config.columns) * head_words,
            value_words=ceil_div(channel_words * config.depth, config.columns) * value_stride,
            value_stride=value_stride,
        )

    @property
    def words(self) -> int:
        """Words of all four buffers; the weight ring starts behind them."""
        return 2 * (self.key_words + self.value_words)

    def key_base(self, head: int) -> int:
        """Base of the keys of a head."""
        return head % 2 * self.key_words

    def value_base(self, head: int) -> int:
        """Base of the values of a head, or of the local features of a group."""
        return 2 * self.key_words + head % 2 * self.value_words


def add_embedding(schedule: Schedule, network: IntegerNetwork, residual: Tensor) -> None:
    """BEGIN, position table into the residual, patches, and the patch embedding added in place."""
    name, patch_dim = "patch_embed", network.config.patch_dim
    schedule.emit(name, Opcode.BEGIN, rows=schedule.tokens)
    patches = schedule.take(Memory.ACT, ceil_div(patch_dim, schedule.config.depth))
    schedule.load(name, (residual, Region.WEIGHTS), (patches, Region.INPUT))
    schedule.linear(name, Drain.RESIDUAL, network.patch_embed, operand(patches), residual, min_runs=EMBEDDING_RUNS)
    schedule.release(patches)
    schedule.tap(name, residual, "int16", Channels.dense(network.config.embed_dim))


def add_block(
    schedule: Schedule, network: NetworkConfig, block: Block, name: str, residual: Tensor, operands: OperandBuffers
) -> None:
    """One transformer block, in place on the residual."""
    depth = schedule.config.depth
    dense, hidden_channels = Channels.dense(network.embed_dim), Channels.dense(network.mlp_hidden)
    _add_attention(schedule, network, block, name, residual, operands)
    normed = schedule.take(Memory.ACT, residual.stride)
    schedule.norm(f"{name}.norm2", block.norm2, residual, normed)
    schedule.tap(f"{name}.norm2", normed, "int8", dense)
    hidden = schedule.take(Memory.ACT, hidden_channels.words(depth))
    schedule.gelu_linear(f"{name}.mlp.fc1", block.fc1, operand(normed), hidden, gelu_constants(network.delta1))
    schedule.tap(f"{name}.mlp.fc1", hidden, "int8", hidden_channels)
    schedule.linear(f"{name}.mlp.fc2", Drain.RESIDUAL, block.fc2, operand(hidden), residual)
    schedule.tap(f"{name}.mlp.fc2", residual, "int16", dense)
    schedule.release(normed, hidden)


def _add_attention(
    schedule: Schedule, network: NetworkConfig, block: Block, name: str, residual: Tensor, operands: OperandBuffers
) -> None:
    depth = schedule.config.depth
    dense, by_head = Channels.dense(network.embed_dim), head_channels(network, depth)
    normed = schedule.take(Memory.ACT, residual.stride)
    schedule.norm(f"{name}.norm1", block.norm1, residual, normed)
    schedule.tap(f"{name}.norm1", normed, "int8", dense)
    projected: dict[str, Tensor] = {}
    # k and v first: the operand unit loads the first head while q is computed.
    layers: tuple[tuple[str, LinearLayer], ...] = (("k", block.k), ("v", block.v), ("q", block.q))
    for letter, layer in layers:
        projected[letter] = schedule.take(Memory.ACT, by_head.words(depth))
        placed = place_layer(layer, dense, by_head)
        schedule.linear(f"{name}.attn.{letter}", Drain.INT8, placed, operand(normed), projected[letter])
        schedule.tap(f"{name}.attn.{letter}", projected[letter], "int8", by_head)
    schedule.release(normed)
    context = schedule.take(Memory.ACT, by_head.words(depth))
    _add_heads(schedule, network, block, name, projected, context, operands)
    schedule.release(*projected.values())
    schedule.tap(f"{name}.attn.context", context, "int8", by_head)
    schedule.linear(
        f"{name}.attn.proj", Drain.RESIDUAL, place_layer(block.proj, by_head, dense), operand(context), residual
    )
    schedule.tap(f"{name}.attn.proj", residual, "int16", dense)
    schedule.release(context)


def _add_heads(
    schedule: Schedule,
    network: NetworkConfig,
    block: Block,
    name: str,
    projected: dict[str, Tensor],
    context: Tensor,
    operands: OperandBuffers,
) -> None:
    """Scores, softmax and AV of every head.

    The scores of a head precede the AV product of the head before, so that the array computes while the vector unit
    takes exponentials; hence two of each buffer.
    """
    config, heads = schedule.config, network.num_heads
    head_words = context.stride // heads
    token_words = ceil_div(schedule.tokens, config.depth)
    buffers = range(min(heads, 2))
    scores = [schedule.take(Memory.WIDE, token_words) for _ in buffers]
    exps = [schedule.take(Memory.ACT, token_words) for _ in buffers]
    store_scores = schedule.head_tap(f"{name}.attn.scores", scores[0], "int16", heads)
    store_exp = schedule.head_tap(f"{name}.attn.exp", exps[0], "uint8", heads)

    def add_scores(head: int) -> None:
        q, k, v = (operand(projected[letter].part(head * head_words), head_words) for letter in "qkv")
        score, exp, key_base = scores[head % 2], exps[head % 2], operands.key_base(head)
        layer = f"{name}.attn.scores"
        schedule.emit(layer, Opcode.KEYS, **k, dst_base=key_base, dst_stride=head_words)
        schedule.emit(
            f"{name}.attn.context",
            Opcode.VALUES,
            **v,
            dst_base=operands.value_base(head),
            dst_stride=operands.value_stride,
        )
        schedule.emit(
            layer,
            Opcode.GEMM,
            mode=Drain.SCORE,
            **q,
            aux_base=key_base,
            aux_stride=head_words,
            **result(score),
            mult=block.score_mult,
            shift=block.score_shift,
        )
        store_scores(score, head)
        schedule.emit(
            f"{name}.attn.exp",
            Opcode.SOFTMAX,
            src_base=score.base,
            src_stride=score.stride,
            **result(exp),
            row_base=head % 2 * config.row_tiles,
            mult=block.context_mult,
            shift=block.context_shift,
        )
        store_exp(exp, head)

    def add_context(head: int) -> None:
        schedule.emit(
            f"{name}.attn.context",
            Opcode.GEMM,
            mode=Drain.ROW_SCALE,
            **operand(exps[head % 2], 0),
            aux_base=operands.value_base(head),
            aux_stride=operands.value_stride,
            **result(context.part(head * head_words)),
            cols=network.head_dim,
            row_base=head % 2 * config.row_tiles,
        )

    add_scores(0)
    for head in range(1, heads):
        add_scores(head)
        add_context(head - 1)
    add_context(heads - 1)
    schedule.release(*scores, *exps)


def add_selector(
    schedule: Schedule,
    network: NetworkConfig,
    selector: Selector,
    residual: Tensor,
    uniform: Tensor,
    operands: OperandBuffers,
) -> None:
    """One token selector: both branches, the decision, and the compaction of the residual.

    uniform is a row tile that nothing else uses, so that the ones of the pooled mean are written while the array still
    works on the layer before.
    """
    name, depth, constants = f"selectors.{schedule.stage}", schedule.config.depth, gelu_constants(1.0)
    tiling = SelectorTiling.of(network, depth)
    by_head = Channels.dense(network.num_heads)
    hidden_channels = Channels.dense(network.head_branch_hidden)
    # UNIFORM writes the row scales of one row tile; the pooled mean reads those of all.
    for tile in range(residual.tiles):
        schedule.emit(
            f"{name}.pooled",
            Opcode.UNIFORM,
            dst_base=uniform.base,
            row_base=tile,
            mult=selector.pool_mult,
            shift=selector.pool_shift,
        )
    normed = schedule.take(Memory.ACT, residual.stride)
    schedule.norm(f"{name}.norm", selector.norm, residual, normed)
    schedule.tap(f"{name}.norm", normed, "int8", Channels.dense(network.embed_dim))

    hidden = schedule.take(Memory.ACT, hidden_channels.words(depth))
    head_score = schedule.take(Memory.ACT, by_head.words(depth))
    schedule.gelu_linear(f"{name}.head1", selector.head1, operand(normed), hidden, constants)
    schedule.tap(f"{name}.head1", hidden, "int8", hidden_channels)
    schedule.linear(f"{name}.head_score", Drain.SIGMOID, selector.head_score, operand(hidden), head_score)
    schedule.tap(f"{name}.head_score", head_score, "uint8", by_head)
    schedule.release(hidden)

    feature = schedule.take(Memory.ACT, tiling.local.words(depth))
    _add_features(schedule, tiling, selector, name, normed, feature, uniform, operands)
    schedule.release(normed)
    token1 = schedule.take(Memory.ACT, tiling.token1.words(depth))
    token2 = schedule.take(Memory.ACT, tiling.token2.words(depth))
    for group in range(tiling.groups):
        first = group * tiling.heads
        placed = join_heads(pick(selector.token1.linear, first, tiling.heads), tiling.joined)
        source = operand(feature.part(2 * group * tiling.half_words), 2 * tiling.half_words)
        schedule.gelu_linear(
            f"{name}.token1",
            with_linear(selector.token1, placed),
            source,
            token1.part(group * tiling.half_words),
            constants,
        )
    schedule.tap(f"{name}.token1", token1, "int8", tiling.token1)
    for group in range(tiling.groups):
        first = group * tiling.heads
        placed = join_heads(
            pick(selector.token2.linear, first, tiling.heads), Channels.dense(tiling.heads * tiling.half)
        )
        source = operand(token1.part(group * tiling.half_words), tiling.half_words)
        schedule.gelu_linear(
            f"{name}.token2",
            with_linear(selector.token2, placed),
            source,
            token2.part(group * tiling.quarter_words),
            constants,
        )
    schedule.tap(f"{name}.token2", token2, "int8", tiling.token2)
    token_score = schedule.take(Memory.ACT, by_head.words(depth))
    placed = join_heads(selector.token_score, tiling.token2)
    schedule.linear(f"{name}.token_score", Drain.SIGMOID, placed, operand(token2), token_score)
    schedule.tap(f"{name}.token_score", token_score, "uint8", by_head)
    schedule.release(feature, token1, token2)
    _add_decision(schedule, network, selector, name, residual, token_score, head_score)
    schedule.release(token_score, head_score)


def _add_features(
    schedule: Schedule,
    tiling: SelectorTiling,
    selector: Selector,
    name: str,
    normed: Tensor,
    feature: Tensor,
    uniform: Tensor,
    operands: OperandBuffers,
) -> None:
    """[local, pooled] of every group; the pooled mean is a product with ones, and every row gets a copy."""

    def add_local(group: int) -> None:
        layer = join_heads(
            pick(selector.local.linear, group * tiling.heads, tiling.heads),
            Channels.dense(tiling.heads * tiling.dim),
        )
        words = ceil_div(tiling.heads * tiling.dim, tiling.depth)
        local = feature.part(2 * group * tiling.half_words)
        schedule.gelu_linear(
            f"{name}.local",
            with_linear(selector.local, layer),
            operand(normed.part(group * words), words),
            local,
            gelu_constants(1.0),
        )
        schedule.emit(
            f"{name}.pooled",
            Opcode.VALUES,
            **operand(local, tiling.half_words),
            dst_base=operands.value_base(group),
            dst_stride=operands.value_stride,
        )

    def add_pooled(group: int) -> None:
        schedule.emit(
            f"{name}.pooled",
            Opcode.GEMM,
            mode=Drain.ROW_SCALE,
            src_base=uniform.base,
            aux_base=operands.value_base(group),
            aux_stride=operands.value_stride,
            **result(feature.part((2 * group + 1) * tiling.half_words)),
            cols=tiling.heads * tiling.half,
        )

    add_local(0)
    for group in range(1, tiling.groups):
        add_local(group)
        add_pooled(group - 1)
    add_pooled(tiling.groups - 1)
    schedule.tap(f"{name}.local", feature, "int8", tiling.local)
    schedule.tap(f"{name}.pooled", feature, "int8", tiling.pooled, rows=1)


def _add_decision(
    schedule: Schedule,
    network: NetworkConfig,
    selector: Selector,
    name: str,
    residual: Tensor,
    token_score: Tensor,
    head_score: Tensor,
) -> None:
    schedule.emit(
        f"{name}.keep_score",
        Opcode.SELECT,
        src_base=token_score.base,
        src_stride=token_score.stride,
        aux_base=head_score.base,
        aux_stride=head_score.stride,
        heads=network.num_heads,
        threshold=selector.threshold_u16,
    )
    schedule.emit(f"{name}.package", Opcode.COMPACT, **operand(residual), index=schedule.stage)
    schedule.stage += 1
    schedule.tap_tokens(f"{name}.tokens")
    schedule.tap(f"{name}.package", residual, "int16", Channels.dense(network.embed_dim))


def add_head(schedule: Schedule, norm: NormLayer, head: LinearLayer, residual: Tensor, logits: Tensor) -> None:
    """LayerNorm and classifier on the CLS row."""
    normed = schedule.take(Memory.ACT, residual.stride, rows=1)
    schedule.norm("norm", norm, residual, normed, rows=1)
    schedule.tap("norm", normed, "int8", Channels.dense(len(norm.gamma_i16)), rows=1)
    schedule.linear("head", Drain.WIDE, head, operand(normed), logits, rows=1)
    schedule.release(normed)
