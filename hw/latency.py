"""Latency table: cycles of a transformer block and of a selector against the token count, for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hw.config import AccelConfig
from hw.cycles import CycleEstimate, estimate
from hw.memory_model import MemoryModel
from hw.program import compile_network
from quant.blank import blank_network
from quant.config import NetworkConfig

DEPTHS = (6, 12)
"""Networks of these many equal blocks are compared: more blocks than the weight ring holds ahead in most accelerators,
so that a block costs what it costs in a long run, the load of its weights included."""


@dataclass(frozen=True)
class Latency:
    """What one more block, and one more selector, adds to a picture's cycles at a token count (cycle model)."""

    tokens: int
    block_cycles: int
    selector_cycles: int


def latency_table(
    network: NetworkConfig, config: AccelConfig, memory: MemoryModel, token_counts: Sequence[int]
) -> tuple[Latency, ...]:
    """Estimate the cycles of a block and of a selector at each token count, package included.

    All blocks run at the count, which a selector before block 0 sets. A block is bound by the array at large counts
    and by its weights at small ones; the selector's cost is what a second one adds that keeps what it meets.
    Raises ValueError if a count is not in 2..num_tokens, or the network does not fit the accelerator.
    """
    shallow, deep = (replace(network, depth=depth, selectors=(0,)) for depth in DEPTHS)
    selected = replace(deep, selectors=(0, sum(DEPTHS) // 3))
    programs = [compile_network(blank_network(topology), config) for topology in (shallow, deep, selected)]
    table = []
    for tokens in token_counts:
        few, many, more = (
            estimate(program, [tokens] * len(program.network_config.selectors), memory).cycles for program in programs
        )
        table.append(Latency(tokens, round((many - few) / (DEPTHS[1] - DEPTHS[0])), more - many))
    return tuple(table)


def estimate_network(
    network: NetworkConfig, config: AccelConfig, memory: MemoryModel, token_counts: Sequence[int]
) -> CycleEstimate:
    """Estimate one picture of a topology, without weights; no counts make it dense: its selectors are left out.

    Raises ValueError as hw.program.compile_network and hw.cycles.estimate do.
    """
    topology = network if token_counts else replace(network, selectors=())
    return estimate(compile_network(blank_network(topology), config), token_counts, memory)
