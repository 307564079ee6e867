"""The instruction-set machine against the golden model: every layer of a compiled network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hw.isa import ErrorCode
from hw.program import Program
from quant.network import U8, IntegerNetwork
from quant.reference import patchify
from sim.cosim import PictureComparison, compare
from sim.job import Outcome
from sim.machine import Machine


def compare_on_machine(
    network: IntegerNetwork, pictures_u8: Sequence[U8] | U8, program: Program, rng: np.random.Generator
) -> list[PictureComparison]:
    """Run pictures (B, in_chans, image_size, image_size), as many to a run as the program takes, on one machine.

    Its memories start with garbage, and descriptors run in a random order that the waits allow. Without taps in the
    program, live tokens and logits are compared alone. B must be a multiple of the program's pictures.
    """
    machine = Machine(program.config, rng)
    comparisons = []
    for first in range(0, len(pictures_u8), program.pictures):
        indices = range(first, first + program.pictures)
        patches_i8 = [patchify(network, pictures_u8[index])[1:] for index in indices]
        result, output = machine.run_pictures(program, *patches_i8, shuffle=rng)
        error = "" if result.error is ErrorCode.NONE else f"{result.error.name} in descriptor {result.error_index}"
        outcome = Outcome(output=output, token_counts=tuple(result.token_counts), error=error)
        comparisons += [compare(index, network, pictures_u8[index], program, outcome) for index in indices]
    return comparisons
