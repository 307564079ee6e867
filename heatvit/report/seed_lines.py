"""Measurements of a few seeds under several settings: a line joins what one seed gave, so that slopes show changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heatvit.report.charts import compact, ticks
from heatvit.report.drawing import Drawing
from heatvit.report.html import Html, tag

PANEL_WIDTH, HEIGHT = 380, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 56, 52
"""Margins of a panel."""


@dataclass(frozen=True)
class Panel:
    """One measurement: values[seed][setting]."""

    title: str
    values: Sequence[Sequence[float]]


def seed_lines(
    title: str, panels: Sequence[Panel], settings: Sequence[str], seeds: Sequence[int], x_label: str
) -> Drawing:
    """Draw the panels side by side; each has its own vertical axis, which need not begin at 0."""
    marks = [tag("text", title, x=LEFT, y=20, class_="label")]
    for number, panel in enumerate(panels):
        marks += _panel(panel, number * PANEL_WIDTH, settings, x_label)
    marks += _legend(seeds)
    alt = f"{title}: " + "; ".join(f"{panel.title}, {_ranges(panel, settings)}" for panel in panels)
    return Drawing(PANEL_WIDTH * len(panels), HEIGHT + 24, alt, tuple(marks))


def _panel(panel: Panel, start: float, settings: Sequence[str], x_label: str) -> list[Html]:
    everything = [value for values in panel.values for value in values]
    y_ticks = ticks(min(everything), max(everything), 4)
    low, high = y_ticks[0], y_ticks[-1]
    left, right, bottom = start + LEFT, start + PANEL_WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(setting: int) -> float:
        return left + (setting + 0.5) * (right - left) / len(settings)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - TOP)

    marks = [tag("text", panel.title, x=left, y=TOP - 14)]
    for value in y_ticks:
        marks.append(tag("line", x1=left, x2=right, y1=y(value), y2=y(value), class_="grid"))
        marks.append(tag("text", compact(value), x=left - 8, y=y(value) + 4, class_="tick", text_anchor="end"))
    for index, setting in enumerate(settings):
        marks.append(tag("text", setting, x=x(index), y=bottom + 20, class_="tick", text_anchor="middle"))
    marks.append(tag("text", x_label, x=(left + right) / 2, y=bottom + 40, class_="axis", text_anchor="middle"))
    for seed, values in enumerate(panel.values):
        places = [(x(index), y(value)) for index, value in enumerate(values)]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        marks.append(tag("polyline", points=path, class_=f"line line-{seed % 6}"))
        marks += [tag("circle", cx=across, cy=down, r=4.5, class_=f"series-{seed % 6}") for across, down in places]
    return marks


def _legend(seeds: Sequence[int]) -> list[Html]:
    marks = []
    for index, seed in enumerate(seeds):
        x = LEFT + 80 * index
        marks.append(tag("circle", cx=x + 5, cy=HEIGHT + 8, r=4.5, class_=f"series-{index % 6}"))
        marks.append(tag("text", f"seed {seed}", x=x + 16, y=HEIGHT + 12))
    return marks


def _ranges(panel: Panel, settings: Sequence[str]) -> str:
    """Say in words what a panel shows."""
    columns = zip(settings, zip(*panel.values, strict=True), strict=True)
    return ", ".join(f"{compact(min(values))} to {compact(max(values))} at ({name})" for name, values in columns)
