"""The roofline of a run: what each layer reaches against the products that it makes of a byte from the DDR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heatvit.report.charts import compact
from heatvit.report.drawing import Drawing
from heatvit.report.html import Html, tag
from heatvit.report.kinds import Kind, layer_kind, legend

WIDTH, HEIGHT = 1120, 560
LEFT, RIGHT, TOP, BOTTOM = 84, 230, 40, 96
"""Margins of the plane; the right one holds the layers without DDR traffic."""

MARGIN = 1.3
"""Factor by which the axes go on beyond the data."""

NO_TRAFFIC_X = WIDTH - RIGHT + 60


@dataclass(frozen=True)
class Work:
    """Products of a layer or of the whole network, the DDR bytes they need, and the cycles that they took."""

    name: str
    macs: float
    ddr_bytes: float
    cycles: float

    @property
    def rate(self) -> float:
        """Products a cycle."""
        return self.macs / self.cycles

    @property
    def intensity(self) -> float:
        """Products a byte; infinite for a layer whose operands never leave the chip."""
        return self.macs / self.ddr_bytes if self.ddr_bytes else math.inf


def roofline(layers: Sequence[Work], whole: Work, peak: float, bytes_per_cycle: float, title: str) -> Drawing:
    """Draw layers and the network under the roofs: `peak` products a cycle, and what bytes_per_cycle can feed.

    A layer stands at its own traffic, but is not limited by it alone: its weights are loaded while others compute.
    """
    known = [work for work in [*layers, whole] if work.ddr_bytes]
    axes = _Axes(
        _limits([work.intensity for work in known] + [peak / bytes_per_cycle]),
        _limits([work.rate for work in [*layers, whole]] + [peak]),
    )
    kinds = {layer_kind(work.name) for work in layers}
    marks = [
        tag("text", title, x=LEFT, y=20, class_="label"),
        *axes.draw(),
        *_roofs(axes, peak, bytes_per_cycle),
        *(_dot(axes, work) for work in layers),
        *_whole(axes, whole, peak),
        *legend([kind for kind in Kind if kind in kinds], LEFT, HEIGHT - 16),
    ]
    alt = (
        f"Roofline of {title}: {whole.rate:,.0f} of {peak:,.0f} multiply-accumulates a cycle at "
        f"{whole.intensity:.0f} for each byte of DDR traffic"
    )
    return Drawing(WIDTH, HEIGHT, alt, tuple(marks))


class _Axes:
    """Logarithmic axes, (lowest, highest) value each."""

    def __init__(self, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> None:
        self._x_limits, self._y_limits = x_limits, y_limits

    def start_of_slope(self, bytes_per_cycle: float) -> float:
        """Return the intensity at which the bandwidth's roof enters the plane."""
        return max(self._y_limits[0] / bytes_per_cycle, self._x_limits[0])

    def x(self, intensity: float) -> float:
        if math.isinf(intensity):
            return NO_TRAFFIC_X
        return LEFT + _part(intensity, self._x_limits) * (WIDTH - LEFT - RIGHT)

    def y(self, rate: float) -> float:
        return HEIGHT - BOTTOM - _part(rate, self._y_limits) * (HEIGHT - TOP - BOTTOM)

    def draw(self) -> list[Html]:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        marks = []
        for value in _round_numbers(self._x_limits):
            x = self.x(value)
            marks.append(tag("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="grid"))
            marks.append(tag("text", compact(value), x=x, y=bottom + 18, class_="tick", text_anchor="middle"))
        for value in _round_numbers(self._y_limits):
            y = self.y(value)
            marks.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"))
            marks.append(tag("text", compact(value), x=LEFT - 8, y=y + 4, class_="tick", text_anchor="end"))
        x_label, y_label = "multiply-accumulates for each byte of DDR traffic", "multiply-accumulates a cycle"
        marks.append(tag("text", x_label, x=(LEFT + right) / 2, y=bottom + 40, class_="axis", text_anchor="middle"))
        middle = (TOP + bottom) / 2
        turn = f"rotate(-90 20 {middle:.0f})"
        marks.append(tag("text", y_label, x=20, y=middle, class_="axis", text_anchor="middle", transform=turn))
        for line, text in enumerate(("no DDR", "traffic")):
            y = bottom + 18 + 15 * line
            marks.append(tag("text", text, x=NO_TRAFFIC_X, y=y, class_="tick", text_anchor="middle"))
        return marks


def _roofs(axes: _Axes, peak: float, bytes_per_cycle: float) -> list[Html]:
    ridge = peak / bytes_per_cycle
    lowest = axes.start_of_slope(bytes_per_cycle)
    corners = [
        (axes.x(lowest), axes.y(lowest * bytes_per_cycle)),
        (axes.x(ridge), axes.y(peak)),
        (WIDTH - 20, axes.y(peak)),
    ]
    middle_x, middle_y = (corners[0][0] + corners[1][0]) / 2, (corners[0][1] + corners[1][1]) / 2
    slope = math.degrees(math.atan2(corners[1][1] - corners[0][1], corners[1][0] - corners[0][0]))
    turn = f"rotate({slope:.1f} {middle_x:.0f} {middle_y:.0f})"
    return [
        tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), class_="roof"),
        tag("text", f"{peak:,.0f} a cycle", x=WIDTH - 20, y=corners[2][1] - 8, class_="tick", text_anchor="end"),
        tag(
            "text",
            f"{bytes_per_cycle:g} bytes a cycle",
            x=middle_x,
            y=middle_y - 8,
            class_="tick",
            text_anchor="middle",
            transform=turn,
        ),
    ]


def _dot(axes: _Axes, work: Work) -> Html:
    title = tag("title", _words(work))
    kind = layer_kind(work.name)
    return tag("circle", title, cx=axes.x(work.intensity), cy=axes.y(work.rate), r=4.5, class_=kind.series)


def _whole(axes: _Axes, whole: Work, peak: float) -> list[Html]:
    """Draw the network as a ring, which the title line explains."""
    x, y = axes.x(whole.intensity), axes.y(whole.rate)
    label = f"{whole.name}: {whole.rate:,.0f} a cycle, {100 * whole.rate / peak:.1f} % of the array"
    return [
        tag("circle", tag("title", _words(whole)), cx=x, cy=y, r=9, class_="whole"),
        tag("circle", cx=WIDTH / 2, cy=16, r=7, class_="whole"),
        tag("text", label, x=WIDTH / 2 + 16, y=20),
    ]


def _words(work: Work) -> str:
    traffic = f"{work.intensity:.1f} a byte" if work.ddr_bytes else "no DDR traffic"
    return f"{work.name}: {work.rate:,.0f} multiply-accumulates a cycle, {traffic}"


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return limits with some room on both sides of the values."""
    return min(values) / MARGIN, max(values) * MARGIN


def _part(value: float, limits: tuple[float, float]) -> float:
    """Return where a value lies between two limits, 0..1, on a logarithmic axis."""
    return math.log(value / limits[0]) / math.log(limits[1] / limits[0])


def _round_numbers(limits: tuple[float, float]) -> list[float]:
    """Return 1, 2 and 5 times each power of ten between two limits."""
    decades = range(math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1])))
    values = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    return [value for value in values if limits[0] <= value <= limits[1]]
