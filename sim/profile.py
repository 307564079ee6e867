"""Where the cycles of a run went, layer by layer, from the times at which its descriptors started and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw.isa import Descriptor, Opcode, Unit
from hw.program import Program
from hw.tiling import ceil_div
from sim.process import DescriptorTimes
from sim.spans import DescriptorSpan, descriptor_spans, of_unit

DEPENDENCY = "dependency"
COUNTED = ("operand", "weight", "drain", DEPENDENCY)
"""Reasons of DescriptorSpan.stalls that a GEMM can have."""

STALL_NAMES = (*COUNTED, "program", "pipeline")
UNNAMED = (DEPENDENCY, "program")
"""Reasons that do not say who made the array wait."""


@dataclass(frozen=True)
class LayerProfile:
    """One layer of one run.

    macs as model.evaluate.layer_macs counts them; ideal_cycles of its GEMMs, whole tiles included. ddr_bytes of its
    LOADs and STOREs. array_cycles of its GEMMs, with the array's idle time before each: these sum to the end of the
    last GEMM; time that two GEMMs share is the first's. cycles is by how much the layer moved the end of everything
    up to it, so that the layers sum to the run; a layer that was hidden under others has few or none.

    stalls: what array_cycles exceeds ideal_cycles by, if the core counted. Before a GEMM: "weight" and "dependency" of
    DescriptorSpan.stalls, and "program", in which it had not come yet, behind a full queue or from the DDR. In it:
    "operand", "drain", and "pipeline" for the rest, which is mostly filling and emptying array and drain.
    stall is the largest of them. Instead of "dependency" and "program", and for a layer without GEMMs or counts, it is
    the unit that was busy longest in the layer's cycles while the array had no descriptor, "dependency" if all units
    waited longer than that, or empty if the array always had one.
    """

    name: str
    macs: int
    ideal_cycles: int
    ddr_bytes: int
    array_cycles: int
    cycles: int
    stalls: Mapping[str, int]
    stall: str


def profile_run(
    program: Program, times: DescriptorTimes, cycles: int, token_counts: Sequence[int], macs: Mapping[str, int]
) -> list[LayerProfile]:
    """Return the layers of a run of `cycles` cycles as they ended; the last end of a descriptor is the run's end.

    token_counts[i] is the live count after COMPACT i; macs are those of all pictures of the run.
    Raises ValueError if the times are not those of one whole run of the program.
    """
    spans = descriptor_spans(program, times, cycles)
    layer_ends: dict[str, int] = {}
    for span in spans:
        layer_ends[span.layer] = max(layer_ends.get(span.layer, 0), span.end)
    ideal, traffic, array = _ideal_cycles(program, token_counts), _traffic(program), _array_cycles(spans)
    array_stalls = _array_stalls(spans, ideal)
    busy = {unit: _busy(of_unit(spans, unit), cycles) for unit in Unit}
    layers, frontier = [], 0
    for name, end in sorted(layer_ends.items(), key=lambda item: item[1]):
        window = slice(frontier, end)
        stalls = array_stalls.get(name, {})
        stall = max(stalls, key=lambda reason: stalls[reason], default=DEPENDENCY)
        if stall in UNNAMED:
            stall = _stall({unit: flags[window] for unit, flags in busy.items()})
        layers.append(
            LayerProfile(
                name=name,
                macs=macs.get(name, 0),
                ideal_cycles=ideal.get(name, 0),
                ddr_bytes=traffic.get(name, 0),
                array_cycles=array.get(name, 0),
                cycles=end - frontier,
                stalls=stalls,
                stall=stall,
            )
        )
        frontier = end
    return layers


def _ideal_cycles(program: Program, token_counts: Sequence[int]) -> dict[str, int]:
    """Return the cycles that the array needs for each layer if it never waits."""
    live = dict.fromkeys(range(program.pictures), program.network_config.num_tokens)
    result: dict[str, int] = {}
    for name, descriptor in zip(program.layers, program.descriptors, strict=True):
        if descriptor.opcode == Opcode.COMPACT:
            live[descriptor.picture] = token_counts[descriptor.index]
        if descriptor.opcode == Opcode.GEMM:
            result[name] = result.get(name, 0) + _gemm_cycles(descriptor, live[descriptor.picture], program)
    return result


def _gemm_cycles(descriptor: Descriptor, live: int, program: Program) -> int:
    row_tiles = ceil_div(descriptor.covered_rows(live, program.config.rows), program.config.rows)
    column_tiles = ceil_div(descriptor.cols or live, program.config.columns)
    return row_tiles * column_tiles * (descriptor.src_words or ceil_div(live, program.config.depth))


def _traffic(program: Program) -> dict[str, int]:
    """Return the bytes that each layer's LOADs and STOREs move."""
    result: dict[str, int] = {}
    for name, descriptor in zip(program.layers, program.descriptors, strict=True):
        if descriptor.opcode in (Opcode.LOAD, Opcode.STORE):
            result[name] = result.get(name, 0) + descriptor.length
    return result


def _array_cycles(spans: Sequence[DescriptorSpan]) -> dict[str, int]:
    """Return for each layer the cycles of its GEMMs, the array's idle time before each of them included."""
    result: dict[str, int] = {}
    last = 0
    for span in of_unit(spans, Unit.GEMM):
        result[span.layer] = result.get(span.layer, 0) + span.end - last
        last = span.end
    return result


def _array_stalls(spans: Sequence[DescriptorSpan], ideal: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return LayerProfile.stalls of each layer that has GEMMs, if the core counted."""
    result: dict[str, dict[str, int]] = {}
    last = 0
    for span in of_unit(spans, Unit.GEMM):
        if span.stalls:
            stalls = result.setdefault(span.layer, {**dict.fromkeys(STALL_NAMES, 0), "pipeline": -ideal[span.layer]})
            for reason in COUNTED:
                stalls[reason] += span.stalls[reason]
            stalls["program"] += span.start - last - span.stalls["weight"] - span.stalls["dependency"]
            stalls["pipeline"] += span.end - span.start - span.stalls["operand"] - span.stalls["drain"]
        last = span.end
    return result


def _busy(spans: Sequence[DescriptorSpan], cycles: int) -> NDArray[np.bool_]:
    """Return for each cycle of a run whether a unit had a descriptor."""
    busy = np.zeros(cycles, np.bool_)
    for span in spans:
        busy[span.start : span.end] = True
    return busy


def _stall(busy: Mapping[Unit, NDArray[np.bool_]]) -> str:
    """Name what happened while the array was without a descriptor, see LayerProfile."""
    is_idle = ~busy[Unit.GEMM]
    others = {unit.name.lower(): int((flags & is_idle).sum()) for unit, flags in busy.items() if unit is not Unit.GEMM}
    nobody = is_idle.copy()
    for flags in busy.values():
        nobody &= ~flags
    others[DEPENDENCY] = int(nobody.sum())
    name = max(others, key=lambda other: others[other])
    return name if others[name] else ""
