"""The layers of a network as steps: patch embedding, transformer block, head. hw/selection.py adds the selector."""

from __future__ import annotations

from dataclasses import dataclass

from hw.config import AccelConfig
from hw.isa import Drain, Memory, Opcode, Region
from hw.schedule import ROW_PARTS, Schedule, Tensor, operand, result
from hw.tiling import Channels, SelectorTiling, ceil_div, head_channels
from hw.weights import place_layer
from quant.approx import gelu_constants
from quant.config import NetworkConfig
from quant.network import Block, LinearLayer, NormLayer

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
        half_words = SelectorTiling.of(network, config.depth).half_words if network.selectors else 0
        value_stride = ceil_div(network.num_tokens, config.depth)
        return cls(
            key_words=ceil_div(network.num_tokens, config.columns) * head_words,
            value_words=ceil_div(max(head_words, half_words) * config.depth, config.columns) * value_stride,
            value_stride=value_stride,
        )

    @property
    def words(self) -> int:
        """Words of all four buffers; the weight ring starts behind them."""
        return 2 * (self.key_words + self.value_words)

    def key_base(self, head: int) -> int:
        """Base of the keys of a head."""
        return head % 2 * self.key_words

    def values(self, head: int) -> dict[str, int]:
        """Return the aux_ fields that read the values of a head, or the local features of a group."""
        return {"aux_base": self._value_base(head), "aux_stride": self.value_stride}

    def values_result(self, head: int) -> dict[str, int]:
        """Return the dst_ fields that write them."""
        return {"dst_base": self._value_base(head), "dst_stride": self.value_stride}

    def _value_base(self, head: int) -> int:
        return 2 * self.key_words + head % 2 * self.value_words


@dataclass(frozen=True)
class Site:
    """What all layers of a program share: the schedule, the topology, and the buffers that live as long as the program.

    uniform holds the ones of the pooled mean. Nothing else uses its row tile, so that the ones are written while the
    array still works on the layer before.
    """

    schedule: Schedule
    network: NetworkConfig
    operands: OperandBuffers
    residual: Tensor
    uniform: Tensor

    @property
    def depth(self) -> int:
        """Depth K of the array."""
        return self.schedule.config.depth

    @property
    def token_words(self) -> int:
        """Words of a row with one position for each token."""
        return ceil_div(self.schedule.tokens, self.depth)

    @property
    def dense(self) -> Channels:
        """Channels of the residual and of what is as wide."""
        return Channels.dense(self.network.embed_dim)

    def take(self, channels: Channels) -> Tensor:
        """Return a new ACT buffer for a row of these channels of every token."""
        return self.schedule.take(Memory.ACT, channels.words(self.depth))

    def add_norm(self, name: str, layer: NormLayer) -> Tensor:
        """LayerNorm of the residual; return its result, which the caller releases."""
        normed = self.take(self.dense)
        self.schedule.norm(name, layer, self.residual, normed)
        self.schedule.tap(name, normed, "int8", self.dense)
        return normed

    def add_residual(self, name: str, layer: LinearLayer, source: Tensor, min_runs: int = 1) -> None:
        """Add a linear layer of `source` to the residual, in place, and release `source`."""
        self.schedule.linear(
            name, Drain.RESIDUAL, layer, operand(source), self.residual, min_runs=min_runs, parts=ROW_PARTS
        )
        self.schedule.tap(name, self.residual, "int16", self.dense)
        self.schedule.release(source)


def add_embedding(site: Site, layer: LinearLayer) -> None:
    """BEGIN, position table into the residual, patches, and the patch embedding added in place."""
    name = "patch_embed"
    site.schedule.emit(name, Opcode.BEGIN, rows=site.schedule.tokens)
    patches = site.take(Channels.dense(site.network.patch_dim))
    site.schedule.load(name, (site.residual, Region.WEIGHTS), (patches, Region.INPUT))
    site.add_residual(name, layer, patches, EMBEDDING_RUNS)


def add_block(site: Site, block: Block, name: str) -> None:
    """One transformer block, in place on the residual."""
    schedule, dense, by_head = site.schedule, site.dense, head_channels(site.network, site.depth)
    normed = site.add_norm(f"{name}.norm1", block.norm1)
    projected: dict[str, Tensor] = {}
    # k and v first: the operand unit loads the first head while q is computed.
    for letter, layer in (("k", block.k), ("v", block.v), ("q", block.q)):
        tap, projected[letter] = f"{name}.attn.{letter}", site.take(by_head)
        placed, parts = place_layer(layer, dense, by_head), ROW_PARTS if letter == "k" else 1
        schedule.linear(tap, Drain.INT8, placed, operand(normed), projected[letter], parts=parts)
        schedule.tap(tap, projected[letter], "int8", by_head)
    schedule.release(normed)
    context = site.take(by_head)
    _add_heads(site, block, f"{name}.attn", projected, context)
    schedule.release(*projected.values())
    schedule.tap(f"{name}.attn.context", context, "int8", by_head)
    site.add_residual(f"{name}.attn.proj", place_layer(block.proj, by_head, dense), context)

    normed = site.add_norm(f"{name}.norm2", block.norm2)
    hidden_channels = Channels.dense(site.network.mlp_hidden)
    hidden = site.take(hidden_channels)
    schedule.gelu_linear(
        f"{name}.mlp.fc1", block.fc1, operand(normed), hidden, gelu_constants(site.network.delta1), ROW_PARTS
    )
    schedule.tap(f"{name}.mlp.fc1", hidden, "int8", hidden_channels)
    schedule.release(normed)
    site.add_residual(f"{name}.mlp.fc2", block.fc2, hidden)


def _add_heads(site: Site, block: Block, name: str, projected: dict[str, Tensor], context: Tensor) -> None:
    """Scores, softmax and product with the values, of every head.

    The scores of a head precede the product of the head before, so that the array computes while the vector unit
    takes exponentials; hence two of each buffer.
    """
    schedule, operands, heads = site.schedule, site.operands, site.network.num_heads
    head_words = context.stride // heads
    scores = [schedule.take(Memory.WIDE, site.token_words) for _ in range(min(heads, 2))]
    exps = [schedule.take(Memory.ACT, site.token_words) for _ in range(min(heads, 2))]
    store_scores = schedule.head_tap(f"{name}.scores", scores[0], "int16", heads)
    store_exp = schedule.head_tap(f"{name}.exp", exps[0], "uint8", heads)

    def row_base(head: int) -> int:
        return head % 2 * schedule.config.row_tiles

    def add_scores(head: int) -> None:
        q, k, v = (operand(projected[letter].part(head * head_words), head_words) for letter in "qkv")
        score, exp, key_base = scores[head % 2], exps[head % 2], operands.key_base(head)
        schedule.emit(f"{name}.scores", Opcode.KEYS, **k, dst_base=key_base, dst_stride=head_words)
        schedule.emit(f"{name}.context", Opcode.VALUES, **v, **operands.values_result(head))
        schedule.emit(
            f"{name}.scores",
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
            f"{name}.exp",
            Opcode.SOFTMAX,
            src_base=score.base,
            src_stride=score.stride,
            **result(exp),
            row_base=row_base(head),
            mult=block.context_mult,
            shift=block.context_shift,
        )
        store_exp(exp, head)

    def add_product(head: int) -> None:
        schedule.emit(
            f"{name}.context",
            Opcode.GEMM,
            mode=Drain.ROW_SCALE,
            **operand(exps[head % 2], 0),
            **operands.values(head),
            **result(context.part(head * head_words)),
            cols=site.network.head_dim,
            row_base=row_base(head),
        )

    add_scores(0)
    for head in range(1, heads):
        add_scores(head)
        add_product(head - 1)
    add_product(heads - 1)
    schedule.release(*scores, *exps)


def add_head(site: Site, norm: NormLayer, head: LinearLayer, logits: Tensor) -> None:
    """LayerNorm and classifier of the CLS row."""
    schedule = site.schedule
    normed = schedule.take(Memory.ACT, site.residual.stride, rows=1)
    schedule.norm("norm", norm, site.residual, normed, rows=1)
    schedule.tap("norm", normed, "int8", site.dense, rows=1)
    schedule.linear("head", Drain.WIDE, head, operand(normed), logits, rows=1)
    schedule.release(normed)
