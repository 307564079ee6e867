"""The line chart.

Testpoints: a line passes through its points, to the scale of the axes; names do not overlap; the alternative text says
every value; names are escaped.
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from heatvit.report.line_chart import NAME_GAP, Line, line_chart

LINES = [Line("a <b>", [(0.0, 10.0), (1.0, 20.0), (2.0, 20.0)]), Line("c", [(0.0, 20.0), (2.0, 20.1)])]


def test_a_line_passes_through_its_points() -> None:
    svg = line_chart("title", LINES, "work", "top-1").file()
    (first, second) = re.findall(r'<polyline points="([^"]*)"', svg)
    places = [tuple(map(float, place.split(","))) for place in first.split()]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1) and y1 == y2 < y0
    assert second.split()[0].split(",")[0] == first.split()[0].split(",")[0]


def test_names_do_not_overlap() -> None:
    svg = line_chart("title", [*LINES, Line("d", [(0.0, 10.0), (2.0, 20.0)])], "work", "top-1").file()
    heights = [float(re.search(rf'<text[^>]*y="([^"]*)"[^>]*>{name}<', svg)[1]) for name in ("a &lt;b&gt;", "c", "d")]
    ordered = sorted(heights)
    assert all(below - above >= NAME_GAP for above, below in pairwise(ordered))


def test_the_alternative_text_says_every_value() -> None:
    assert (
        line_chart("title", LINES, "work", "top-1").alt
        == "title: a <b> 10 at 0, 20 at 1, 20 at 2; c 20 at 0, 20.1 at 2"
    )
