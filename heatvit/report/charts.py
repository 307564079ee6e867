"""Figures as inline SVG: colours come from the page's style sheet, so light and dark need one drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heatvit.report.html import Html, tag

WIDTH, HEIGHT = 520, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 20, 48
"""Margins of the plotting area in SVG units; the left one holds six-digit tick labels."""


@dataclass(frozen=True)
class Point:
    """One labelled measurement; `series` 0..2 picks its colour."""

    label: str
    x: float
    y: float
    series: int = 0


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten, about `count` of them."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"axis limits must be finite, not {low!r}..{high!r}")
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def compact(value: float) -> str:
    """Write a number briefly: 1234567 as 1.23M, 0.5 as 0.5."""
    for limit, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}"


def scatter(points: Sequence[Point], curve: Sequence[Point], x_label: str, y_label: str, alt: str) -> Html:
    """Draw labelled points, and `curve` as a thin line with small dots below them."""
    everything = [*points, *curve]
    axes = _Axes(
        ticks(0, max(point.x for point in everything)),
        ticks(min(point.y for point in everything), max(point.y for point in everything)),
    )
    path = " ".join(f"{axes.x(point.x):.1f},{axes.y(point.y):.1f}" for point in curve)
    marks = [tag("polyline", points=path, class_="curve")] if curve else []
    for point in curve:
        title = tag("title", f"{point.label}: {compact(point.x)}, {point.y:.4g}")
        marks.append(tag("circle", title, cx=axes.x(point.x), cy=axes.y(point.y), r=3, class_="curve-dot"))
    for point, label_y in zip(points, _spread([(axes.x(point.x), axes.y(point.y)) for point in points]), strict=True):
        x, y = axes.x(point.x), axes.y(point.y)
        on_left = x > (LEFT + WIDTH - RIGHT) / 2
        title = tag("title", f"{point.label}: {compact(point.x)}, {point.y:.4g}")
        marks.append(tag("circle", title, cx=x, cy=y, r=7, class_=f"mark series-{point.series}"))
        marks.append(
            tag(
                "text",
                point.label,
                x=x + (-13 if on_left else 13),
                y=label_y + 4,
                class_="label",
                text_anchor="end" if on_left else "start",
            )
        )
    return _figure(axes, marks, x_label, y_label, alt)


def columns(values: Sequence[float], first: int, x_label: str, y_label: str, alt: str, series: int = 0) -> Html:
    """Draw one column a value; the x axis counts from `first`."""
    axes = _Axes([first - 0.5, first + len(values) - 0.5], ticks(0, max([*values, 1])))
    slot = (axes.x(first + 1) - axes.x(first)) if values else 0
    width = min(max(slot * 0.78, 1.0), 36.0)
    marks = []
    for index, value in enumerate(values):
        top = axes.y(value)
        title = tag("title", f"{first + index}: {compact(value)}")
        left = axes.x(first + index) - width / 2
        height = axes.y(0) - top
        marks.append(
            tag("rect", title, x=left, y=top, width=width, height=height, rx=2, class_=f"mark series-{series}")
        )
    every = max(1, -(-len(values) // 16))
    labels = [first + index for index in range(0, len(values), every)]
    return _figure(axes, marks, x_label, y_label, alt, x_ticks=labels)


class _Axes:
    """Linear maps from data to SVG coordinates."""

    def __init__(self, x_ticks: list[float], y_ticks: list[float]) -> None:
        self.x_ticks, self.y_ticks = x_ticks, y_ticks

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _spread(places: Sequence[tuple[float, float]], gap: float = 17.0, reach: float = 260.0) -> list[float]:
    """Return label heights of points (x, y), moved down where another label within `reach` is closer than `gap`."""
    heights = [y for _, y in places]
    order = sorted(range(len(places)), key=lambda index: places[index][1])
    for position, below in enumerate(order):
        for above in order[:position]:
            if abs(places[above][0] - places[below][0]) < reach:
                heights[below] = max(heights[below], heights[above] + gap)
    return heights


def _figure(
    axes: _Axes,
    marks: list[Html],
    x_label: str,
    y_label: str,
    alt: str,
    x_ticks: Sequence[float] | None = None,
) -> Html:
    parts = [tag("title", alt)]
    for value in axes.y_ticks:
        y = axes.y(value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", compact(value), x=LEFT - 8, y=y + 4, class_="tick", text_anchor="end"))
    for value in axes.x_ticks if x_ticks is None else x_ticks:
        parts.append(
            tag("text", compact(value), x=axes.x(value), y=HEIGHT - BOTTOM + 18, class_="tick", text_anchor="middle")
        )
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(tag("text", x_label, x=middle_x, y=HEIGHT - 8, class_="axis", text_anchor="middle"))
    parts.append(
        tag(
            "text",
            y_label,
            x=14,
            y=middle_y,
            class_="axis",
            text_anchor="middle",
            transform=f"rotate(-90 14 {middle_y:.0f})",
        )
    )
    return tag("svg", *parts, *marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alt)
