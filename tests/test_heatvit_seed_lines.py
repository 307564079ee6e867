"""The drawing of seeds.

Testpoints: every seed has a line and a dot a setting in every panel, at places that keep the order of the values; the
seeds and settings are named; the words for readers who see nothing hold the ranges; the file is an SVG of its own.
"""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from heatvit.report.seed_lines import HEIGHT, PANEL_WIDTH, Panel, seed_lines

PANELS = [Panel("error, %", [[1.0, 2.0, 4.0], [3.0, 2.5, 1.5]]), Panel("top-1", [[50, 50, 50], [50, 50, 50]])]
DRAWING = seed_lines("A study", PANELS, ["1, 1", "0.5, 1", "0.5, 0.5"], [3, 7], "delta1, delta2")
SVG = "{http://www.w3.org/2000/svg}"


def lines() -> list[list[tuple[float, float]]]:
    """Return the places of each line."""
    root = ElementTree.fromstring(DRAWING.file())
    points = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in each)] for each in points]


def test_lines_follow_the_values() -> None:
    first, second, *equal = lines()
    assert first[0][1] > first[1][1] > first[2][1], "a larger value stands higher"
    assert second[0][1] < second[1][1] < second[2][1]
    assert first[0][1] - first[1][1] == pytest.approx((first[1][1] - first[2][1]) / 2, abs=0.2)
    for line in (first, second):
        assert all(0 < x < PANEL_WIDTH and 0 < y < HEIGHT for x, y in line)
        assert all(left[0] < right[0] for left, right in pairwise(line))
    assert len({y for line in equal for _, y in line}) == 1
    assert all(PANEL_WIDTH < x < 2 * PANEL_WIDTH for line in equal for x, _ in line)


def test_everything_is_named() -> None:
    text = DRAWING.file()
    for words in ("A study", "error, %", "top-1", "1, 1", "0.5, 0.5", "seed 3", "seed 7", "delta1, delta2"):
        assert f">{words}</text>" in text
    assert len(re.findall("<circle", text)) == 2 * 2 * 3 + 2
    assert "error, %, 1 to 3 at (1, 1), 2 to 2.5 at (0.5, 1), 1.5 to 4 at (0.5, 0.5)" in DRAWING.alt
