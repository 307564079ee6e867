"""The timeline of a run: when each unit had a descriptor, coloured by the kind of layer that it worked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from heatvit.report.charts import compact, ticks
from heatvit.report.drawing import Drawing
from heatvit.report.html import Html, tag
from heatvit.report.kinds import Kind, layer_kind, legend
from hw.isa import Unit
from sim.spans import DescriptorSpan, of_unit

WIDTH, LEFT, RIGHT = 1120, 84, 64
TITLE_HEIGHT, BAND_HEIGHT, LANE_HEIGHT, LANE_STEP, AXIS_HEIGHT, GAP = 26, 20, 22, 27, 28, 14
CHARACTER = 6.3
"""Width of a letter in SVG units."""


@dataclass(frozen=True)
class Bar:
    """Neighbouring descriptors of one kind in one unit: their layers, first to last, and the cycles they span."""

    kind: Kind
    first_layer: str
    last_layer: str
    start: int
    end: int

    @property
    def cycles(self) -> int:
        """Length, with the gaps inside."""
        return self.end - self.start


@dataclass(frozen=True)
class Band:
    """The cycles from the last GEMM of what came before to the last one of a part of the network."""

    name: str
    start: int
    end: int


def part_of(layer: str) -> str:
    """Return the block or selector of a layer, or the layer itself if it is in none."""
    parts = layer.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else layer


def make_bands(spans: Sequence[DescriptorSpan], names: Sequence[str]) -> list[Band]:
    """Return the bands of GEMMs that work for names[i], in the order of their last ends."""
    ends: dict[str, int] = {}
    for span, name in zip(spans, names, strict=True):
        ends[name] = max(ends.get(name, 0), span.end)
    ordered = sorted(ends.items(), key=lambda item: item[1])
    starts = [("", spans[0].start), *ordered]
    return [Band(name, start, end) for (_, start), (name, end) in pairwise(starts)]


def merge_bars(spans: Sequence[DescriptorSpan], smallest: float) -> list[Bar]:
    """Join the spans of one unit that follow each other within `smallest` cycles, if they are of one kind.

    What is shorter than `smallest` joins its neighbour of any kind; the longer one gives the colour.
    """
    bars: list[Bar] = []
    for span in spans:
        bar = Bar(layer_kind(span.layer), span.layer, span.layer, span.start, span.end)
        last = bars[-1] if bars else None
        if (
            last
            and bar.start - last.end < smallest
            and (last.kind is bar.kind or min(last.cycles, bar.cycles) < smallest)
        ):
            kind = last.kind if last.cycles >= bar.cycles else bar.kind
            bars[-1] = Bar(kind, last.first_layer, bar.last_layer, last.start, bar.end)
        else:
            bars.append(bar)
    return bars


def timeline(spans: Sequence[DescriptorSpan], title: str) -> Drawing:
    """Draw a whole run and, below it, the block in the middle of the network.

    Bars closer than half a unit of the drawing are one; the share on the right is exact. The spans are those of a run
    with at least one block.
    """
    gemms = of_unit(spans, Unit.GEMM)
    whole = make_bands(gemms, [part_of(span.layer) for span in gemms])
    blocks = [band for band in whole if band.name.startswith("blocks.")]
    zoomed = blocks[len(blocks) // 2]
    inside = [span for span in spans if span.end > zoomed.start and span.start < zoomed.end]
    in_block = [span for span in gemms if part_of(span.layer) == zoomed.name]
    layers = make_bands(in_block, [span.layer.removeprefix(f"{zoomed.name}.") for span in in_block])
    run = Band("", 0, max(span.end for span in spans))
    first = _Panel(GAP, run)
    second = _Panel(first.bottom + GAP, zoomed)
    kinds = {layer_kind(span.layer) for span in spans}
    marks = (
        *first.draw(f"{title}: {run.end:,} cycles", spans, whole),
        *second.draw(f"{zoomed.name}: cycles {zoomed.start:,} to {zoomed.end:,}", inside, layers),
        *legend([kind for kind in Kind if kind in kinds], LEFT, second.bottom + GAP + 10, CHARACTER),
    )
    alt = f"Timeline of {title}: busy units over {run.end:,} cycles, and over those of {zoomed.name}"
    return Drawing(WIDTH, second.bottom + GAP + 28, alt, marks)


class _Panel:
    """The lanes of all units over a window of cycles, drawn from `top` down."""

    def __init__(self, top: int, window: Band) -> None:
        self._top, self._window = top, window
        self._lanes = top + TITLE_HEIGHT + BAND_HEIGHT + 6
        self._axis = self._lanes + LANE_STEP * len(Unit)
        self.bottom = self._axis + AXIS_HEIGHT
        self._scale = (WIDTH - LEFT - RIGHT) / (window.end - window.start)

    def draw(self, title: str, spans: Sequence[DescriptorSpan], bands: Sequence[Band]) -> list[Html]:
        marks = [tag("text", title, x=LEFT, y=self._top + 14, class_="label")]
        marks += self._draw_axis()
        for number, band in enumerate(bands):
            marks += self._draw_band(band, number % 2 == 1)
        for lane, unit in enumerate(Unit):
            marks += self._draw_lane(self._lanes + lane * LANE_STEP, unit, of_unit(spans, unit))
        return marks

    def _x(self, cycle: float) -> float:
        """Return the place of a cycle; those outside the window are at its edges."""
        inside = min(max(cycle, self._window.start), self._window.end)
        return LEFT + (inside - self._window.start) * self._scale

    def _draw_axis(self) -> list[Html]:
        marks = []
        for cycle in ticks(self._window.start, self._window.end, 8):
            if self._window.start <= cycle <= self._window.end:
                x = self._x(cycle)
                marks.append(tag("line", x1=x, x2=x, y1=self._lanes, y2=self._axis, class_="grid"))
                marks.append(tag("text", compact(cycle), x=x, y=self._axis + 14, class_="tick", text_anchor="middle"))
        return marks

    def _draw_band(self, band: Band, is_odd: bool) -> list[Html]:
        """Shade a band down to the axis and write its name, or its last part, if there is room."""
        left, right = self._x(band.start), self._x(band.end)
        top = self._top + TITLE_HEIGHT
        title = tag("title", f"{band.name}: {band.end - band.start:,} cycles")
        kind = "band odd" if is_odd else "band"
        marks = [tag("rect", title, x=left, y=top, width=right - left, height=self._axis - top, class_=kind)]
        short = band.name.rpartition(".")[2]
        label = next((text for text in (band.name, short) if CHARACTER * len(text) < right - left), None)
        if label:
            marks.append(tag("text", label, x=(left + right) / 2, y=top + 15, class_="tick", text_anchor="middle"))
        return marks

    def _draw_lane(self, top: int, unit: Unit, spans: Sequence[DescriptorSpan]) -> list[Html]:
        name = unit.name
        window = self._window
        busy = sum(min(span.end, window.end) - max(span.start, window.start) for span in spans)
        share = f"{100 * busy / (window.end - window.start):.1f} %"
        middle = top + LANE_HEIGHT / 2 + 4
        marks = [
            tag("text", name, x=LEFT - 10, y=middle, class_="label", text_anchor="end"),
            tag("rect", x=LEFT, y=top, width=WIDTH - LEFT - RIGHT, height=LANE_HEIGHT, class_="lane"),
            tag("text", share, x=WIDTH - RIGHT + 8, y=middle, class_="tick"),
        ]
        for bar in merge_bars(spans, 0.5 / self._scale):
            left, right = self._x(bar.start), self._x(bar.end)
            layers = bar.first_layer if bar.first_layer == bar.last_layer else f"{bar.first_layer} to {bar.last_layer}"
            title = tag("title", f"{layers}: {bar.start:,} to {bar.end:,}")
            width = max(right - left, 0.3)
            marks.append(tag("rect", title, x=left, y=top, width=width, height=LANE_HEIGHT, class_=bar.kind.series))
        return marks
