"""Cycle counts and buffer sizes of the RTL that the cycle model (hw/cycles.py) needs too; no amaranth here."""

from __future__ import annotations

from hw.config import AccelConfig

QUEUE_DEPTH = 16
"""Descriptors that wait for one unit; a full queue holds back the ones behind it in the program.

LOADs for later layers wait the longest, until the words that they fill are free. A LUT RAM is no smaller for fewer.
"""

MAX_RUNNING = 4
"""Descriptors that one unit may have taken and not completed; only GEMM takes a descriptor before the last is done."""

READ_LATENCY = 2
"""Cycles from an accepted read request to its response (block RAM with its output register)."""

BURST_BLOCKS = 4
"""A burst ends at the next multiple of 256 bytes: it cannot cross a 4 KiB boundary, and has 64 beats at most."""

READ_BLOCKS = 16
"""Blocks that one reader may have requested and not yet handed on: four full bursts hide the latency of the DDR."""

CHAIN_MAX = 8
"""Multipliers in one chain: 8 * 128 * 127 = 130048 < 2**17, a ninth could overflow the low field."""

ROUND_SHIFT_CYCLES = 4
REQUANTIZE_CYCLES = 2 + ROUND_SHIFT_CYCLES
GELU_CYCLES = 7
SIGMOID_CYCLES = 3
"""Lengths of the pipelines behind the array."""

RESIDUAL_CYCLES = 1 + REQUANTIZE_CYCLES
"""Cycles after its accumulator at which the residual of a drain element is added."""

ELEMENT_CYCLES = RESIDUAL_CYCLES + 1
"""Cycles from `acc` to `o` of a drain element."""

ACTIVATION_CYCLES = 1 + GELU_CYCLES + REQUANTIZE_CYCLES
"""Cycles from `x` to `o` of an activation element."""


def drain_width(config: AccelConfig) -> int:
    """Channels of a lane that leave the array and are requantized per cycle.

    Half a word: the scores of a head of 64 channels are 64 / K steps a tile, in which C / (K / 2) parts leave: as many
    for C = 32. Every other layer has more steps.
    """
    return config.depth // 2


def activation_width(config: AccelConfig) -> int:
    """Channels of a lane that pass GELU or sigmoid per cycle.

    A quarter of a word, or 8 parts a tile: fc1 has at least D / K steps a tile, and a selector's layers of one head of
    64 channels have 64 / K. Half a word at most, as a word arrives.
    """
    return min(config.depth // 2, max(1, config.depth // 4, config.columns // 8))


def norm_width(config: AccelConfig) -> int:
    """Channels of a lane that each of the two passes of LAYER_NORM takes per cycle.

    Half a word: the two passes together then take a word of WIDE in every cycle.
    """
    return config.depth // 2


def dot_latency(depth: int) -> int:
    """Cycles from operand 0 to the sum: input, product and sum register, and one more sum for each further cell."""
    return depth + 2


def array_latency(config: AccelConfig) -> int:
    """Cycles from a last step at the array's inputs to the first word of its sums."""
    chains = -(-config.depth // CHAIN_MAX)
    return dot_latency(min(config.depth, CHAIN_MAX)) + (chains - 1) + 3


def words_in_flight(config: AccelConfig) -> int:
    """Output words of the drain between the read of their constants and their write: enough for full pipelines."""
    return max(32, 8 * config.columns // config.depth)


def compact_rows(config: AccelConfig) -> int:
    """Rows that COMPACT moves in a cycle: half a word, so that what spills into the next word fits beside the rest."""
    return config.rows // 2


def package_positions(config: AccelConfig) -> int:
    """Positions of a channel word that share one requantizer of the package."""
    return min(config.depth, 8)
