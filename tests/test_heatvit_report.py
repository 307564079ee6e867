"""Report page: markup, figures, pictures, and the whole page in a real browser.

Testpoints: escaping of text and attributes; void elements; attribute names and numbers; round ticks that cover the
data; columns and points where the data say; pruned patches covered and kept ones not; PNG pixels exact; picture
verdicts; a network without selectors; a mismatch is shown as a failure; nothing external in the page; both colour
schemes readable (contrast); in Chromium: the script runs, no console error (a blocked request is one), painted in
both schemes.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatvit.report import charts
from heatvit.report.html import Html, join, table, tag
from heatvit.report.page import render
from heatvit.report.pictures import PictureResult, picture_card, png_data_uri
from heatvit.report.schema import Report
from heatvit.report.style import STYLE
from hw.config import CONFIGS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def make_report() -> Report:
    return {
        "title": "Digits <&> heat",
        "network": {"patch_size": 2, "depth": 3, "embed_dim": 32, "num_heads": 4, "selectors": [1, 2]},
        "config_name": "tiny",
        "config": CONFIGS["tiny"].to_dict(),
        "config_hash": "0x12345678",
        "verilog_sha256": "ab" * 32,
        "test_images": 360,
        "accuracy": {"float_dense": 0.9861, "golden_dense": 0.9833, "golden_pruned": 0.9722},
        "macs": {"dense": 1_234_567, "pruned_mean": 800_000.5},
        "curve": [
            {"keep_share": 0.25, "accuracy": 0.98, "macs": 1_000_000.0},
            {"keep_share": 0.5, "accuracy": 0.97, "macs": 800_000.5},
        ],
        "kept_tokens_histogram": [[0] * 9 + [100, 200, 60] + [0] * 6, [0] * 5 + [360] + [0] * 12],
        "qat_equals_golden": True,
        "qat_images": 200,
        "rtl": {
            "images": 2,
            "mismatches": 0,
            "layers_compared": 88,
            "first_divergence": None,
            "kept_tokens": [[10, 5], [9, 5]],
            "cycles": [12_345, 11_111],
            "unit_busy": {"gemm": 0.61, "vector": 0.2},
            "unit_wait": {"gemm": 0.125, "vector": 0.3},
        },
        "seconds": {"train": 61.2, "simulate": 40.0},
        "methods": ["Golden <b>is</b> integers only."],
    }


def make_pictures() -> list[PictureResult]:
    pixels_u8 = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) * 4
    return [
        PictureResult(pixels_u8, 3, 3, ((0, 1, 5, 6, 9, 10), (5, 6))),
        PictureResult(255 - pixels_u8, 4, 9, ((2, 3), ())),
    ]


def test_text_and_attributes_are_escaped() -> None:
    assert tag("p", "<&>", Html("<b>x</b>"), title='"<') == '<p title="&quot;&lt;">&lt;&amp;&gt;<b>x</b></p>'
    assert join(None, 3, " < ", Html("<i></i>")) == "3 &lt; <i></i>"


def test_attribute_names_and_numbers() -> None:
    assert (
        tag("rect", class_="a", stroke_width=1.0, x=2.345, y=None)
        == '<rect class="a" stroke-width="1" x="2.35"></rect>'
    )
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_table_heads_its_rows_and_columns() -> None:
    markup = table(["a", "b"], [["x", 1], ["<y>", 2]], "caption")
    assert markup.count('scope="col"') == 2 and markup.count('scope="row"') == 2
    assert "&lt;y&gt;" in markup and "<caption>caption</caption>" in markup


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (97.2, 98.6), (0, 1_234_567), (5, 5), (0, 0), (-3, 0.1), (1e-9, 2e-9)]
)
def test_ticks_cover_the_data_with_few_steps(low: float, high: float) -> None:
    values = charts.ticks(low, high)
    assert values[0] <= low + 1e-12 and values[-1] >= high - 1e-12
    assert 2 <= len(values) <= 8 and values == sorted(set(values))


def test_ticks_are_round_and_reject_non_finite_limits() -> None:
    assert charts.ticks(0, 9) == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="axis limits must be finite"):
        charts.ticks(0, float("nan"))


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (9_999, "9999"), (12_345, "12.3k"), (1.5e6, "1.5M"), (3e9, "3G")]
)
def test_compact_numbers(value: float, text: str) -> None:
    assert charts.compact(value) == text


def test_columns_are_as_high_as_their_values() -> None:
    markup = charts.columns([1, 0, 4], 5, "x", "y", "three columns")
    heights = [float(height) for height in re.findall(r'height="([\d.]+)" rx', markup)]
    assert heights[1] == 0 and heights[2] == pytest.approx(4 * heights[0], abs=0.1)
    assert 'aria-label="three columns"' in markup and "<title>7: 4</title>" in markup


def test_scatter_places_points_in_order_and_keeps_labels_apart() -> None:
    points = [charts.Point("a", 28, 50, 0), charts.Point("b", 29, 50.01, 1), charts.Point("<c>", 30, 60, 2)]
    markup = charts.scatter(points, [charts.Point("t", 5, 55)], "x", "y", "alt")
    xs = [float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="7"', markup)]
    assert xs == sorted(xs) and len(set(xs)) == 3
    label_ys = sorted(float(y) for y in re.findall(r'y="([\d.]+)" class="label"', markup))
    assert min(b - a for a, b in pairwise(label_ys)) >= 16.9
    assert "&lt;c&gt;" in markup


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 5, 4)])
def test_png_holds_the_exact_pixels(shape: tuple[int, int, int]) -> None:
    pixels_u8 = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    data = base64.b64decode(png_data_uri(pixels_u8).removeprefix("data:image/png;base64,"))
    decoded = np.atleast_3d(np.asarray(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(np.moveaxis(decoded, -1, 0), pixels_u8)


def test_png_rejects_other_shapes() -> None:
    with pytest.raises(ValueError, match="pixels must be"):
        png_data_uri(np.zeros((2, 4, 4), np.uint8))


def test_exactly_the_pruned_patches_are_covered() -> None:
    markup = picture_card(0, make_pictures()[0], 2)
    stages = markup.split("<small>")[:3]
    assert [stage.count('class="pruned"') for stage in stages] == [0, 10, 14]
    covered = re.findall(r'<rect x="(\d+)" y="(\d+)"', stages[1])
    assert {int(y) // 2 * 4 + int(x) // 2 for x, y in covered} == set(range(16)) - {0, 1, 5, 6, 9, 10}
    assert "after selector 1: 2 of 16 patches kept" in markup


def test_verdicts() -> None:
    right, wrong = make_pictures()
    assert 'data-verdict="right"' in picture_card(0, right, 2)
    assert "class 9, should be 4" in picture_card(1, wrong, 2)
    unlabelled = PictureResult(right.pixels_u8, None, 3, ())
    assert 'data-verdict="none"' in picture_card(0, unlabelled, 2)


def test_page_shows_the_numbers_and_escapes_every_text() -> None:
    page = render(make_report(), make_pictures())
    assert "0 mismatches" in page and 'class="proof good"' in page
    assert "88 tensors of 2 pictures" in page
    for text in ("98.6 %", "98.3 %", "97.2 %", "35.2 %", "11,728", "61.0 %", "12.5 %"):
        assert text in page
    assert "<title>Digits &lt;&amp;&gt; heat</title>" in page
    assert "Golden &lt;b&gt;is&lt;/b&gt; integers only." in page


@pytest.mark.parametrize("fault", ["mismatch", "qat", "nothing compared"])
def test_any_failed_proof_is_red(fault: str) -> None:
    report = make_report()
    if fault == "mismatch":
        report["rtl"]["mismatches"] = 1
        report["rtl"]["first_divergence"] = "picture 3, blocks.0.norm1"
    elif fault == "qat":
        report["qat_equals_golden"] = False
    else:
        report["rtl"]["layers_compared"] = 0
    page = render(report, make_pictures())
    assert 'class="proof bad"' in page and 'class="proof good"' not in page
    if fault == "mismatch":
        assert "1 mismatch<" in page and "picture 3, blocks.0.norm1" in page


def test_network_without_selectors_or_pictures() -> None:
    report = make_report()
    report["network"]["selectors"] = []
    report["kept_tokens_histogram"] = []
    report["curve"] = []
    report["rtl"].update(images=0, kept_tokens=[], cycles=[])
    assert "keeps all its tokens" in render(report, [])


def test_page_names_no_other_host_and_labels_every_figure() -> None:
    page = render(make_report(), make_pictures())
    assert not re.findall(r"(?:https?:)?//[a-z]", page)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    drawings = re.findall(r"<svg[^>]*>", page)
    assert drawings and all('role="img"' in drawing and 'aria-label="' in drawing for drawing in drawings)


def contrast(first: str, second: str) -> float:
    """Return the WCAG contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        ("ink", "paper", 7), ("soft", "card", 4.5), ("soft", "paper", 4.5), ("good", "good-paper", 4.5),
        ("bad", "bad-paper", 4.5), ("ink", "good-paper", 7), ("ink", "bad-paper", 7), ("good", "card", 4.5),
        ("bad", "card", 4.5), ("series-0", "card", 3), ("series-1", "card", 3), ("series-2", "card", 3),
    ],
)  # fmt: skip
def test_colours_are_readable(scheme: int, front: str, back: str, least: float) -> None:
    colours = {name: both for name, *both in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)}
    assert contrast(colours[front][scheme], colours[back][scheme]) >= least


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(make_report(), make_pictures()), encoding="utf-8")
    return path


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless Chromium with a fresh profile; stderr holds the console and the network log."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    return subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update",
            f"--user-data-dir={page.parent / 'profile'}",
            "--virtual-time-budget=3000", "--enable-logging=stderr", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


@pytest.mark.browser
def test_browser_runs_the_page_without_errors_or_requests(page_file: Path) -> None:
    assert 'content="default-src &#x27;none&#x27;; img-src data:;' in page_file.read_text(encoding="utf-8")
    result = browse(page_file, "--dump-dom")
    dom = result.stdout
    assert 'data-ready="yes"' in dom and 'data-theme="light"' in dom
    assert dom.count('class="picture"') == 2 and dom.count('class="pruned"') == 10 + 14 + 14 + 16
    assert "0 mismatches" in dom
    assert "CONSOLE" not in result.stderr


@pytest.mark.browser
@pytest.mark.parametrize("fault", ['<img src="http://example.invalid/x.png">', "<script>missing()</script>"])
def test_browser_reports_a_request_and_a_script_error(page_file: Path, fault: str) -> None:
    page_file.write_text(page_file.read_text(encoding="utf-8").replace("<main>", f"<main>{fault}"), encoding="utf-8")
    assert "CONSOLE" in browse(page_file, "--dump-dom").stderr


@pytest.mark.browser
@pytest.mark.parametrize(("options", "dark"), [((), False), (("--force-dark-mode",), True)])
def test_browser_paints_the_page(page_file: Path, options: tuple[str, ...], dark: bool) -> None:
    shot = page_file.parent / "shot.png"
    browse(page_file, f"--screenshot={shot}", "--window-size=1200,2400", "--hide-scrollbars", *options)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    corner = pixels[4, 4].astype(int)
    assert (corner.sum() < 200) == dark
