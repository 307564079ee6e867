"""How far the cycle model is from the RTL on measured runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hw.cycles import CycleEstimate, estimate
from hw.isa import UNIT_OF, Opcode, Unit
from hw.memory_model import MemoryModel
from hw.program import Program
from sim.measure import Measurement, TimedRun
from sim.process import DdrModel, DescriptorTimes
from sim.profile import profile_run

MIN_SHARE = 0.01
"""Layers of less than this share of a run are not judged alone: a few cycles of hand-over decide them."""


@dataclass(frozen=True)
class ModelError:
    """One run's cycles by the model and by the RTL, and the layer that the model gets worst.

    worst: the largest relative difference of a layer's cycles, of layers with at least MIN_SHARE of the RTL's run;
    worst_layer names it. Without such a layer: 0 and no name.
    """

    predicted: int
    measured: int
    worst: float
    worst_layer: str

    @property
    def total(self) -> float:
        """Relative error of the run's cycles; positive if the model says more."""
        return (self.predicted - self.measured) / self.measured


def model_error(program: Program, run: TimedRun, memory: MemoryModel) -> ModelError:
    """Compare the model with a run that ended. Layers of both are attributed by the same rule (sim.profile)."""
    outcome = run.outcome
    counts = outcome.token_counts[: program.pictures * len(program.network_config.selectors)]
    model = estimate(program, counts, memory)
    rtl_layers = _layer_cycles(program, run.times, outcome.cycles, counts)
    model_layers = _layer_cycles(program, _times(program, model), model.cycles, counts)
    errors = {
        name: abs(model_layers[name] - cycles) / cycles
        for name, cycles in rtl_layers.items()
        if cycles >= MIN_SHARE * outcome.cycles
    }
    worst_layer = max(errors, key=lambda name: errors[name], default="")
    return ModelError(model.cycles, outcome.cycles, errors.get(worst_layer, 0.0), worst_layer)


def model_errors(result: Measurement, ddr: DdrModel) -> dict[str, float]:
    """Return the relative error of the totals' sum, and the largest of one layer of one run; see ModelError."""
    memory = MemoryModel(ddr.bytes_per_cycle, ddr.latency_cycles)
    errors = [model_error(result.program, run, memory) for run in result.timed]
    measured = sum(error.measured for error in errors)
    return {
        "model_error_total": (sum(error.predicted for error in errors) - measured) / measured,
        "model_error_worst_layer": max(error.worst for error in errors),
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
