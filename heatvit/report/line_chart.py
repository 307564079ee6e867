"""Lines over a common axis, each named at its right end: accuracy against work, losses against epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heatvit.report.charts import compact, ticks
from heatvit.report.drawing import Drawing
from heatvit.report.html import Html, tag

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 250, 44, 52
"""Margins; the right one holds the names."""
NAME_GAP = 18
COLOURS = 6


@dataclass(frozen=True)
class Line:
    """Points (x, y) in the order in which they are joined."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> Drawing:
    """Draw lines with a dot at each point; neither axis need begin at 0."""
    x_ticks, y_ticks = (
        ticks(min(values), max(values))
        for values in zip(*(point for line in lines for point in line.points), strict=True)
    )
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT

    def x(value: float) -> float:
        return LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - LEFT)

    def y(value: float) -> float:
        return bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - TOP)

    marks = [tag("text", title, x=LEFT, y=22, class_="label")]
    for value in y_ticks:
        marks.append(tag("line", x1=LEFT, x2=right, y1=y(value), y2=y(value), class_="grid"))
        marks.append(tag("text", compact(value), x=LEFT - 8, y=y(value) + 4, class_="tick", text_anchor="end"))
    for value in x_ticks:
        marks.append(tag("text", compact(value), x=x(value), y=bottom + 20, class_="tick", text_anchor="middle"))
    marks.append(tag("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 10, class_="axis", text_anchor="middle"))
    marks.append(tag("text", y_label, x=LEFT, y=TOP - 8, class_="axis"))
    for index, line in enumerate(lines):
        marks += _line(line, [(x(across), y(up)) for across, up in line.points], index % COLOURS)
    marks += _names(lines, [(x(line.points[-1][0]), y(line.points[-1][1])) for line in lines])
    return Drawing(WIDTH, HEIGHT, f"{title}: " + "; ".join(map(_in_words, lines)), tuple(marks))


def _line(line: Line, places: Sequence[tuple[float, float]], colour: int) -> list[Html]:
    path = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
    marks = [tag("polyline", points=path, class_=f"line line-{colour}")]
    for (across, down), (x, y) in zip(places, line.points, strict=True):
        label = tag("title", f"{line.name}: {compact(x)}, {y:.4g}")
        marks.append(tag("circle", label, cx=across, cy=down, r=4, class_=f"series-{colour}"))
    return marks


def _names(lines: Sequence[Line], ends: Sequence[tuple[float, float]]) -> list[Html]:
    """Put the names beside the chart, in the order of the lines' ends and never on top of one another."""
    marks, lowest = [], 0.0
    for index in sorted(range(len(lines)), key=lambda index: ends[index][1]):
        lowest = max(lowest + NAME_GAP, ends[index][1])
        marks.append(tag("circle", cx=WIDTH - RIGHT + 16, cy=lowest, r=4, class_=f"series-{index % COLOURS}"))
        marks.append(tag("text", lines[index].name, x=WIDTH - RIGHT + 26, y=lowest + 4))
    return marks


def _in_words(line: Line) -> str:
    return f"{line.name} {', '.join(f'{y:.4g} at {compact(x)}' for x, y in line.points)}"
