"""What the layers of one picture share: its schedule, its residual, and the buffers that heads use by turns."""

from __future__ import annotations

from dataclasses import dataclass

from hw.config import AccelConfig
from hw.isa import Drain, Memory
from hw.schedule import ROW_PARTS, Schedule
from hw.step import Tensor, operand
from hw.tiling import Channels, SelectorTiling, ceil_div, head_channels
from quant.config import NetworkConfig
from quant.network import LinearLayer, NormLayer


@dataclass(frozen=True)
class OperandBuffers:
    """The part of WEIGHT that KEYS and VALUES fill: two buffers each, so that a head loads while another computes.

    key_words and value_words are the size of one buffer, value_stride the words of one column tile of values. A slot
    numbers the heads, or the groups of a selector, of all pictures in the order in which they take turns.
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

    def key_base(self, slot: int) -> int:
        """Base of the keys of a slot."""
        return slot % 2 * self.key_words

    def values(self, slot: int) -> dict[str, int]:
        """Return the aux_ fields that read the values of a slot."""
        return {"aux_base": self._value_base(slot), "aux_stride": self.value_stride}

    def values_result(self, slot: int) -> dict[str, int]:
        """Return the dst_ fields that write them."""
        return {"dst_base": self._value_base(slot), "dst_stride": self.value_stride}

    def _value_base(self, slot: int) -> int:
        return 2 * self.key_words + slot % 2 * self.value_words


@dataclass(frozen=True)
class Site:
    """One picture of a program: its view of the schedule, the topology, and its buffers of the program's whole length.

    uniform holds the ones of the pooled mean. Nothing else uses its row tile, so that the ones are written while the
    array still works on the layer before.
    """

    schedule: Schedule
    network: NetworkConfig
    operands: OperandBuffers
    residual: Tensor
    uniform: Tensor

    @property
    def picture(self) -> int:
        """Number of the picture in the program."""
        return self.schedule.picture

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

    def row_scales(self, slot: int) -> int:
        """Base of the row scales of a slot; there are two sets."""
        return slot % 2 * self.schedule.config.row_tiles

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
        """Add a linear layer of `source` to the residual, in place."""
        self.schedule.linear(
            name, Drain.RESIDUAL, layer, operand(source), self.residual, min_runs=min_runs, parts=ROW_PARTS
        )
        self.schedule.tap(name, self.residual, "int16", self.dense)
