"""What a program under construction is made of: steps, the buffers that they use, and the parts of their rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hw.isa import Descriptor, Memory


@dataclass(frozen=True)
class Chunk:
    """What descriptors need in WEIGHT and PARAM before they run; weights may be empty."""

    weights: bytes
    params: bytes


@dataclass(frozen=True)
class Step:
    """Descriptors, the layer that they work for, and the chunk they share, whose addresses hw/prefetch.py fills in.

    The steps of a layer on several pictures share one chunk object, so that it is loaded once.
    """

    descriptors: tuple[Descriptor, ...]
    layer: str
    chunk: Chunk | None = None


@dataclass(frozen=True)
class Tensor:
    """A buffer of row tiles in ACT or WIDE: word w of row tile i is at base + i * stride + w."""

    memory: Memory
    base: int
    stride: int
    tiles: int

    def part(self, first_word: int) -> Tensor:
        """Return the same rows from word first_word on."""
        return replace(self, base=self.base + first_word)


@dataclass(frozen=True)
class RowPart:
    """Row tiles from first_tile on, as a descriptor has them; rows is how many, 0 for the rest of the live tokens."""

    first_tile: int
    rows: int

    def of(self, fields: dict[str, int]) -> dict[str, int]:
        """Return src_ or dst_ fields moved to this part of the rows."""
        side = "src" if "src_base" in fields else "dst"
        return fields | {f"{side}_base": fields[f"{side}_base"] + self.first_tile * fields[f"{side}_stride"]}


def operand(tensor: Tensor, words: int | None = None) -> dict[str, int]:
    """Return the src_ fields that read `words` words of each row (all of them by default)."""
    return {
        "src_base": tensor.base,
        "src_stride": tensor.stride,
        "src_words": tensor.stride if words is None else words,
    }


def result(tensor: Tensor) -> dict[str, int]:
    """Return the dst_ fields that write the rows of a tensor."""
    return {"dst_base": tensor.base, "dst_stride": tensor.stride}
