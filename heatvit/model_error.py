"""How far the cycle model is from the RTL on measured runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hw.cycles import CycleEstimate, estimate
from hw.isa import UNIT_OF, Opcode, Unit
from hw.memory_model import MemoryModel
from hw.program import Program
from sim.measure import Measurement
from sim.process import DdrModel, DescriptorTimes
from sim.profile import profile_run

MIN_SHARE = 0.01
"""Layers of less than this share of a run are not judged alone: a few cycles of hand-over decide them."""


def model_errors(result: Measurement, ddr: DdrModel, num_selectors: int) -> dict[str, float]:
    """Return the relative error of the totals' sum, and the largest of one layer of one picture.

    Needs runs that ended. Layers of model and RTL are attributed by the same rule (sim.profile).
    """
    memory = MemoryModel(ddr.bytes_per_cycle, ddr.latency_cycles)
    predicted = measured = 0
    worst = 0.0
    for run in result.timed:
        outcome = run.comparison.outcome
        counts = outcome.token_counts[:num_selectors]
        model = estimate(result.program, counts, memory)
        predicted, measured = predicted + model.cycles, measured + outcome.cycles
        rtl_layers = _layer_cycles(result.program, run.times, outcome.cycles, counts)
        model_layers = _layer_cycles(result.program, _times(result.program, model), model.cycles, counts)
        worst = max(worst, _worst(model_layers, rtl_layers, MIN_SHARE * outcome.cycles))
    return {
        "model_error_total": (predicted - measured) / measured,
        "model_error_worst_layer": worst,
    }


def _layer_cycles(program: Program, times: DescriptorTimes, cycles: int, counts: Sequence[int]) -> dict[str, int]:
    return {layer.name: layer.cycles for layer in profile_run(program, times, cycles, counts, {})}


def _times(program: Program, model: CycleEstimate) -> DescriptorTimes:
    """Return the model's spans in the form in which the simulation records them."""
    starts: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    ends: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    for descriptor, span in zip(program.descriptors, model.spans, strict=False):  # END has no span
        unit = UNIT_OF[Opcode(descriptor.opcode)]
        starts[unit].append(round(span.issue))
        ends[unit].append(round(span.done))
    return DescriptorTimes(starts, ends)


def _worst(model: Mapping[str, int], rtl: Mapping[str, int], min_cycles: float) -> float:
    """Return the largest relative difference of a layer of at least min_cycles."""
    return max(
        (abs(model[name] - cycles) / cycles for name, cycles in rtl.items() if cycles >= min_cycles), default=0.0
    )
