"""Layer shape -> tiles, words and chunks: where the channels of a tensor sit and how a layer is cut to fit."""

from __future__ import annotations

from dataclasses import dataclass

from hw.config import AccelConfig
from quant.config import NetworkConfig

TRANSFER_BYTES = 64
"""LOAD and STORE move multiples of this many bytes, at multiples of it in DDR."""


def ceil_div(value: int, divisor: int) -> int:
    """Return value / divisor, rounded up."""
    return -(-value // divisor)


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least value."""
    return ceil_div(value, multiple) * multiple


def transfer_words(words: int, word_bytes: int) -> int:
    """Return `words` rounded up to what LOAD and STORE can move: whole words that make whole 64-byte blocks.

    word_bytes is a power of two.
    """
    return round_up(words, max(TRANSFER_BYTES // word_bytes, 1))


@dataclass(frozen=True)
class Channels:
    """Positions of a tensor's channels in a row: channel q sits at positions[q] of `width` positions.

    Position p of a row is byte (or halfword) p mod K of word p div K. Positions that no channel takes are padding.
    """

    positions: tuple[int, ...]
    width: int

    @classmethod
    def dense(cls, count: int) -> Channels:
        """Channels one after the other."""
        return cls(tuple(range(count)), count)

    @classmethod
    def heads(cls, heads: int, dim: int, pitch: int) -> Channels:
        """Each head's `dim` channels start `pitch` positions after those of the head before."""
        return cls(tuple(head * pitch + i for head in range(heads) for i in range(dim)), heads * pitch)

    def words(self, depth: int) -> int:
        """Words of a row, at `depth` positions a word."""
        return ceil_div(self.width, depth)


def head_channels(network: NetworkConfig, depth: int) -> Channels:
    """Channels of q, k, v and context: every head starts a word, so that it can be an operand by itself."""
    return Channels.heads(network.num_heads, network.head_dim, round_up(network.head_dim, depth))


@dataclass(frozen=True)
class SelectorTiling:
    """How the per-head layers of a token selector become GEMMs over groups of heads.

    A group has `heads` heads and block-diagonal weights; its d/2-wide results take `half_words` words and its
    d/4-wide ones `quarter_words`. The feature buffer holds [local, pooled] group by group, so that token1 of a
    group reads one run of words.
    """

    groups: int
    heads: int
    dim: int
    depth: int

    @classmethod
    def of(cls, network: NetworkConfig, depth: int) -> SelectorTiling:
        """Take the smallest groups that fill whole words, or one padded group of all heads."""
        heads, dim = network.num_heads, network.head_dim
        # A whole number of words of quarter is also one of half and of the group's own input channels.
        fits = [size for size in range(1, heads + 1) if heads % size == 0 and size * (dim // 4) % depth == 0]
        size = fits[0] if fits else heads
        return cls(heads // size, size, dim, depth)

    @property
    def half(self) -> int:
        """Channels of a head in local, pooled and token1."""
        return self.dim // 2

    @property
    def quarter(self) -> int:
        """Channels of a head in token2."""
        return self.dim // 4

    @property
    def half_words(self) -> int:
        """Words of a group's local, pooled or token1 result."""
        return ceil_div(self.heads * self.half, self.depth)

    @property
    def quarter_words(self) -> int:
        """Words of a group's token2 result."""
        return ceil_div(self.heads * self.quarter, self.depth)

    def _grouped(self, dim: int, pitch_words: int, start_words: int) -> Channels:
        pitch, start = pitch_words * self.depth, start_words * self.depth
        positions = (
            start + group * pitch + i for group in range(self.groups) for i in range(self.heads * dim)
        )  # heads are dense inside a group
        return Channels(tuple(positions), self.groups * pitch)

    @property
    def local(self) -> Channels:
        """Channels of `local` in a row of the feature buffer."""
        return self._grouped(self.half, 2 * self.half_words, 0)

    @property
    def pooled(self) -> Channels:
        """Channels of `pooled` in a row of the feature buffer."""
        return self._grouped(self.half, 2 * self.half_words, self.half_words)

    @property
    def joined(self) -> Channels:
        """Input channels of token1 inside a group, head by head: its local, then its pooled channels."""
        pooled = self.half_words * self.depth
        positions = (
            start + head * self.half + i
            for head in range(self.heads)
            for start in (0, pooled)
            for i in range(self.half)
        )
        return Channels(tuple(positions), 2 * pooled)

    @property
    def token1(self) -> Channels:
        """Channels of `token1` in its own buffer."""
        return self._grouped(self.half, self.half_words, 0)

    @property
    def token2(self) -> Channels:
        """Channels of `token2` in its own buffer."""
        return self._grouped(self.quarter, self.quarter_words, 0)


@dataclass(frozen=True)
class ColumnRange:
    """Output columns first .. first + count - 1 of a layer; first is a multiple of the array's columns."""

    first: int
    count: int


def split_columns(
    name: str, columns: int, depth_words: int, config: AccelConfig, weight_words: int, min_runs: int = 1
) -> list[ColumnRange]:
    """Cut a layer into runs of column tiles whose weights and parameters fit their rings.

    A run takes at most half a ring where one column tile fits in half, so that the next run loads meanwhile. There
    are about min_runs runs or more, as far as column tiles allow, of about one size: a short last run would leave a
    gap in the ring into which no other run fits.
    weight_words is the size of the weight ring, depth_words the words of a column tile.
    Raises ValueError if not even one column tile fits.
    """
    param_words = config.columns // config.depth
    if depth_words > weight_words:
        raise ValueError(
            f"weight_words must be at least {config.weight_words - weight_words + depth_words}: one column tile of "
            f"{name} takes {depth_words} words and {weight_words} of {config.weight_words} are left beside the operands"
        )
    tiles = ceil_div(columns, config.columns)
    most = max(1, min(weight_words // 2 // depth_words, config.param_words // 2 // param_words))
    step = ceil_div(tiles, max(ceil_div(tiles, most), min_runs)) * config.columns
    return [ColumnRange(first, min(step, columns - first)) for first in range(0, columns, step)]
