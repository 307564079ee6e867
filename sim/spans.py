"""When each descriptor of a run was at work, in cycles from the start of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hw.isa import UNIT_OF, Opcode, Unit
from hw.program import Program
from hw.regmap import Stall
from sim.process import DescriptorTimes


@dataclass(frozen=True)
class DescriptorSpan:
    """One descriptor of a run: its unit took it in cycle `start` and completed it in cycle `end`.

    GEMM takes a descriptor before the one before is complete; the time that two share is that of the first.
    stalls: cycles lost to each of hw.regmap.Stall, by value, and to "dependency"; "weight" and "dependency" are waits
    before it, the others are of its own time. Empty if the core did not count.
    """

    index: int
    layer: str
    opcode: Opcode
    unit: Unit
    start: int
    end: int
    stalls: Mapping[str, int] = field(default_factory=dict)


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
    stalls = {unit: iter(_stalls(counts)) for unit, counts in times.counts.items()}
    spans = []
    last_end = dict.fromkeys(Unit, 0)
    for index, (layer, descriptor, owner) in enumerate(zip(program.layers, program.descriptors, owners, strict=True)):
        if owner is not None:
            start, end = next(remaining[owner])
            opcode = Opcode(descriptor.opcode)
            lost = next(stalls[owner]) if times.counts else {}
            begin = max(start - origin, last_end[owner])
            spans.append(DescriptorSpan(index, layer, opcode, owner, begin, end - origin, lost))
            last_end[owner] = end - origin
    return spans


def _stalls(counts: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """Return what each descriptor of a unit added to its counters, which were 0 at the start of the run."""
    added = {name: np.diff(values, prepend=0).tolist() for name, values in counts.items()}
    waits = added.pop("wait")
    return [
        {**{name: values[i] for name, values in added.items()}, "dependency": wait - added[Stall.WEIGHT.value][i]}
        for i, wait in enumerate(waits)
    ]


def of_unit(spans: Sequence[DescriptorSpan], unit: Unit) -> list[DescriptorSpan]:
    """Return the spans of one unit, in order."""
    return [span for span in spans if span.unit is unit]
