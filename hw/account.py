"""The memory account: words that a program uses of each on-chip memory, block RAMs that these take, DDR bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hw.config import AccelConfig
from hw.dependency import Space, Span, footprints, memory_word_bytes, space_words
from hw.isa import DESCRIPTOR_BYTES, Memory, Opcode
from hw.prefetch import ring_words
from hw.program import Program
from hw.site import OperandBuffers
from hw.tiling import ceil_div

BLOCK_BYTES = 4096
"""Of a block RAM of 36 Kbit without its parity bits: 512 words of 8 bytes, or more of fewer."""

MAX_BLOCK_WIDTH = 8
"""Bytes of the widest word of a block."""

ZCU102_BLOCKS = 912
"""Block RAMs of 36 Kbit in the ZU9EG (UltraScale+ product tables)."""


@dataclass(frozen=True)
class Use:
    """Words, or block RAMs, that are used and that there are."""

    used: int
    available: int


def memory_account(program: Program) -> dict[str, Use]:
    """Return the words of each memory up to the highest that the program may touch, by name.

    "weight" has two parts: the operand buffers of keys and values ("weight_operands"), of as many words as they take,
    and behind them the ring that weights pass through ("weight_ring"). "param" is a ring as well.
    """
    config = program.config
    spans = [
        span
        for access in footprints(program.descriptors, config)
        for span in (*access.reads, *access.writes)
        if span.space <= Space.TOKEN
    ]
    sizes = space_words(config)
    account = {
        memory.name.lower(): Use(_end(spans, Space(memory)), sizes[Space(memory)])
        for memory in (Memory.ACT, Memory.WIDE, Memory.WEIGHT, Memory.PARAM, Memory.TOKEN)
    }
    operands = OperandBuffers.of(program.network_config, config).words
    ring = Use(account["weight"].used - operands, ring_words(config.weight_words - operands, config.weight_bytes))
    return account | {"weight_operands": Use(operands, operands), "weight_ring": ring}


def _end(spans: Sequence[Span], space: Space) -> int:
    return max((span.end for span in spans if span.space == space), default=0)


def block_rams(config: AccelConfig) -> dict[str, int]:
    """Return the block RAMs that the capacity of each memory takes, by name; row scales and queues fit in LUTs.

    An estimate from the sizes alone: synthesis may do with fewer by the parity bits, or put a small memory in LUTs; it
    takes more where each byte of a word is a RAM of its own whose depth does not fill blocks.
    """
    return {
        memory.name.lower(): _blocks(space_words(config)[Space(memory)], memory_word_bytes(memory, config))
        for memory in Memory
    }


def _blocks(words: int, word_bytes: int) -> int:
    width = min(word_bytes, MAX_BLOCK_WIDTH)
    return ceil_div(words, BLOCK_BYTES // width) * ceil_div(word_bytes, width)


def ddr_bytes(program: Program) -> int:
    """Return the bytes that a run moves to and from DDR, its descriptors included."""
    transfers = [d.length for d in program.descriptors if d.opcode in (Opcode.LOAD, Opcode.STORE)]
    return sum(transfers) + DESCRIPTOR_BYTES * len(program.descriptors)
