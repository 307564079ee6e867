"""The report of a cycle measurement as files: the page, its two figures, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heatvit.files import write_json, write_text
from heatvit.report.cycles_page import render_cycles
from heatvit.report.drawing import Drawing
from heatvit.report.roofline import Work, roofline
from heatvit.report.timeline import timeline
from hw.config import AccelConfig
from sim.measure import Measurement
from sim.spans import DescriptorSpan, descriptor_spans


def write_cycle_report(folder: Path, title: str, result: dict[str, Any], measured: Measurement) -> None:
    """Write report.html, timeline.svg, roofline.svg, descriptors.csv and result.json of a measurement that ended.

    result is that of heatvit.bench.bench_cycles for `measured`. The timeline and the descriptors are those of
    the first run.
    """
    first = measured.timed[0]
    spans = descriptor_spans(measured.program, first.times, first.outcome.cycles)
    drawings = {"timeline": timeline(spans, title), "roofline": _roofline(title, result, measured.program.config)}
    for name, drawing in drawings.items():
        write_text(folder / f"{name}.svg", drawing.file())
    write_text(folder / "report.html", render_cycles(title, result, **drawings))
    write_json(folder / "result.json", result)
    write_text(folder / "descriptors.csv", _descriptors(spans))


def _descriptors(spans: Sequence[DescriptorSpan]) -> str:
    """Return one line for each descriptor: what it was, when, and what held it up."""
    reasons = list(spans[0].stalls)
    lines = [["index", "layer", "unit", "opcode", "start", "end", *reasons]]
    for span in spans:
        numbers = [span.start, span.end, *(span.stalls[reason] for reason in reasons)]
        lines.append([str(span.index), span.layer, span.unit.name.lower(), span.opcode.name, *map(str, numbers)])
    return "".join(",".join(line) + "\n" for line in lines)


def _roofline(title: str, result: dict[str, Any], config: AccelConfig) -> Drawing:
    layers = [
        Work(row["layer"], row["macs"], row["ddr_bytes"], row["array_cycles"])
        for row in result["layers"]
        if row["macs"]
    ]
    whole = Work("whole network", 1e9 * result["gmac"], result["ddr_bytes"], result["cycles_per_picture"])
    return roofline(layers, whole, config.macs, result["ddr"]["bytes_per_cycle"], title)
