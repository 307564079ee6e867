"""When each descriptor of a run was at work, in cycles from the start of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hw.isa import UNIT_OF, Opcode, Unit
from hw.program import Program
from sim.process import DescriptorTimes


@dataclass(frozen=True)
class DescriptorSpan:
    """One descriptor of a run: its unit took it in cycle `start` and completed it in cycle `end`."""

    index: int
    layer: str
    opcode: Opcode
    unit: Unit
    start: int
    end: int


def descriptor_spans(program: Program, times: DescriptorTimes, cycles: int) -> list[DescriptorSpan]:
    """Return the spans of a run of `cycles` cycles in program order, without END; the last end is the run's end.

    Raises ValueError if the times are not those of one whole run of the program.
    """
    owners = [UNIT_OF.get(Opcode(descriptor.opcode)) for descriptor in program.descriptors]
    for unit in Unit:
        if not len(times.starts[unit]) == len(times.ends[unit]) == owners.count(unit):
            raise ValueError(f"times must hold {owners.count(unit)} descriptors of {unit.name.lower()}, one run's")
    origin = max(max(ends, default=0) for ends in times.ends.values()) - cycles
    remaining = {unit: zip(times.starts[unit], times.ends[unit], strict=True) for unit in Unit}
    spans = []
    for index, (layer, descriptor, owner) in enumerate(zip(program.layers, program.descriptors, owners, strict=True)):
        if owner is not None:
            start, end = next(remaining[owner])
            opcode = Opcode(descriptor.opcode)
            spans.append(DescriptorSpan(index, layer, opcode, owner, max(start - origin, 0), end - origin))
    return spans


def of_unit(spans: Sequence[DescriptorSpan], unit: Unit) -> list[DescriptorSpan]:
    """Return the spans of one unit, in order."""
    return [span for span in spans if span.unit is unit]
