"""Figures and page of a cycle measurement.

Testpoints
- spans are in program order, in cycles of the run; the layers' traffic and array cycles follow them
- stalls of the layers are those of their GEMMs and sum to what the array lost; the largest is named
- kinds: every layer name of the architecture has its colour
- bars of one kind that touch are one, tiny ones join their neighbour, the others stay; bands follow the array
- timeline: a lane for each unit with its exact share, bars at their cycles, also in the window of one block
- timeline of a hundred thousand descriptors stays small
- roofline: a layer at the peak is on the roof, one that is bound by the memory on the slope; no traffic is a column
- files are well-formed XML that names nothing outside; the page shows the numbers, and a failure in red
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from heatvit.report.cycles_page import render_cycles
from heatvit.report.drawing import Drawing
from heatvit.report.kinds import Kind, layer_kind
from heatvit.report.roofline import NO_TRAFFIC_X, Work, roofline
from heatvit.report.timeline import LEFT, RIGHT, WIDTH, Band, Bar, make_bands, merge_bars, timeline
from hw.config import CONFIGS
from hw.isa import Descriptor, Opcode, Unit
from sim.process import DescriptorTimes
from sim.profile import LayerProfile, profile_run
from sim.spans import DescriptorSpan, descriptor_spans

SVG = "{http://www.w3.org/2000/svg}"
OPCODES = {Unit.LOAD: Opcode.LOAD, Unit.GEMM: Opcode.GEMM, Unit.VECTOR: Opcode.LAYER_NORM, Unit.STORE: Opcode.STORE}


def span(unit: Unit, layer: str, start: int, end: int) -> DescriptorSpan:
    return DescriptorSpan(0, layer, OPCODES[unit], unit, start, end)


RUN = [
    span(Unit.LOAD, "patch_embed", 0, 100),
    span(Unit.GEMM, "patch_embed", 100, 300),
    span(Unit.VECTOR, "blocks.0.norm1", 280, 340),
    span(Unit.GEMM, "blocks.0.attn.q", 340, 600),
    span(Unit.GEMM, "blocks.0.mlp.fc1", 640, 900),
    span(Unit.GEMM, "head", 900, 950),
    span(Unit.STORE, "head", 950, 1000),
]


def test_spans_and_what_layers_move() -> None:
    work: Any = SimpleNamespace(
        config=CONFIGS["tiny"],
        pictures=1,
        network_config=SimpleNamespace(num_tokens=5),
        layers=("a", "b", "b", "a", "end"),
        descriptors=(
            Descriptor(Opcode.LOAD, length=128),
            Descriptor(Opcode.GEMM, src_words=1, cols=8),
            Descriptor(Opcode.LOAD, length=64),
            Descriptor(Opcode.GEMM, src_words=1, cols=8),
            Descriptor(Opcode.END),
        ),
    )
    none: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    times = DescriptorTimes(
        none | {Unit.LOAD: [5000, 5012], Unit.GEMM: [5015, 5060]},
        none | {Unit.LOAD: [5010, 5050], Unit.GEMM: [5055, 5103]},
    )
    spans = descriptor_spans(work, times, 100)  # the run began in cycle 5003: the first LOAD was taken at once
    assert [(each.index, each.layer, each.opcode, each.unit, each.start, each.end) for each in spans] == [
        (0, "a", Opcode.LOAD, Unit.LOAD, 0, 7),
        (1, "b", Opcode.GEMM, Unit.GEMM, 12, 52),
        (2, "b", Opcode.LOAD, Unit.LOAD, 9, 47),
        (3, "a", Opcode.GEMM, Unit.GEMM, 57, 100),
    ]
    layers = {layer.name: layer for layer in profile_run(work, times, 100, [], {})}
    assert {name: layer.ddr_bytes for name, layer in layers.items()} == {"a": 128, "b": 64}
    assert {name: layer.array_cycles for name, layer in layers.items()} == {"b": 52, "a": 48}


def test_overlapping_gemms_do_not_share_time() -> None:
    gemm = Descriptor(Opcode.GEMM)
    work: Any = SimpleNamespace(layers=("a", "b"), descriptors=(gemm, gemm))
    none: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    times = DescriptorTimes(none | {Unit.GEMM: [1000, 1020]}, none | {Unit.GEMM: [1030, 1100]})
    assert [(span.start, span.end) for span in descriptor_spans(work, times, 100)] == [(0, 30), (30, 100)]


def test_what_held_the_array_up() -> None:
    """Two GEMMs of 36 ideal cycles in 100, and a layer without any."""
    work: Any = SimpleNamespace(
        config=CONFIGS["tiny"],
        pictures=1,
        network_config=SimpleNamespace(num_tokens=5),
        layers=("b", "b", "a"),
        descriptors=(
            Descriptor(Opcode.GEMM, src_words=6, cols=8),
            Descriptor(Opcode.GEMM, src_words=6, cols=8),
            Descriptor(Opcode.LAYER_NORM),
        ),
    )
    none: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    zero = {name: [0] for name in ("operand", "weight", "drain", "memory", "wait")}
    counted = {"operand": [1, 3], "weight": [0, 20], "drain": [4, 4], "memory": [0, 0], "wait": [0, 30]}

    def profile(counts: dict[str, list[int]]) -> list[LayerProfile]:
        idle: dict[str, list[int]] = {name: [] for name in zero}
        times = DescriptorTimes(
            none | {Unit.GEMM: [0, 60], Unit.VECTOR: [30]},
            none | {Unit.GEMM: [30, 100], Unit.VECTOR: [58]},
            {unit: idle for unit in Unit} | {Unit.GEMM: counts, Unit.VECTOR: zero},
        )
        spans = descriptor_spans(work, times, 100)
        assert spans[1].stalls == {
            name: counts[name][1] - counts[name][0] for name in ("operand", "weight", "drain", "memory")
        } | {"dependency": (counts["wait"][1] - counts["wait"][0]) - (counts["weight"][1] - counts["weight"][0])}
        return profile_run(work, times, 100, [], {})

    norm, layer = profile(counted)
    assert (norm.stalls, norm.stall) == ({}, "vector") and layer.array_cycles - layer.ideal_cycles == 64
    # The first took 30 cycles for 18, 5 of them lost; the second came 30 cycles later and took 40 for 18, 2 lost.
    assert layer.stalls == {
        "operand": 3, "weight": 20, "drain": 4, "dependency": 10, "program": 30 - 30 - 0, "pipeline": 70 - 36 - 7,
    }  # fmt: skip
    assert layer.stall == "pipeline"
    assert profile(counted | {"weight": [0, 30]})[1].stall == "weight"
    # Nobody was busy while the array waited for somebody else than LOAD, or for its descriptor.
    assert profile(counted | {"weight": [0, 0]})[1].stall == "dependency"
    assert profile(counted | {"weight": [0, 0], "wait": [0, 0]})[1].stalls["program"] == 30


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ("patch_embed", Kind.ENDS), ("head", Kind.ENDS), ("norm", Kind.NORM), ("blocks.3.norm2", Kind.NORM),
        ("blocks.3.attn.k", Kind.PROJECTION), ("blocks.3.attn.proj", Kind.PROJECTION),
        ("blocks.10.attn.exp", Kind.ATTENTION), ("blocks.3.mlp.fc2", Kind.MLP), ("selectors.0.norm", Kind.SELECTOR),
        ("selectors.2.head1", Kind.SELECTOR),
    ],
)  # fmt: skip
def test_kinds(layer: str, kind: Kind) -> None:
    assert layer_kind(layer) is kind


def test_bars_that_touch_are_one() -> None:
    spans = [
        span(Unit.GEMM, "blocks.0.attn.q", 0, 100),
        span(Unit.GEMM, "blocks.0.attn.k", 104, 200),
        span(Unit.GEMM, "blocks.0.attn.v", 210, 300),  # a gap that shows
        span(Unit.GEMM, "blocks.0.mlp.fc1", 300, 400),  # another colour
        span(Unit.GEMM, "head", 401, 404),  # too short to be seen
    ]
    assert merge_bars(spans, 5) == [
        Bar(Kind.PROJECTION, "blocks.0.attn.q", "blocks.0.attn.k", 0, 200),
        Bar(Kind.PROJECTION, "blocks.0.attn.v", "blocks.0.attn.v", 210, 300),
        Bar(Kind.MLP, "blocks.0.mlp.fc1", "head", 300, 404),
    ]
    assert len(merge_bars(spans, 0)) == 5


def test_bands_follow_the_array() -> None:
    gemms = [each for each in RUN if each.unit is Unit.GEMM]
    assert make_bands(gemms, ["a", "b", "b", "c"]) == [Band("a", 100, 300), Band("b", 300, 900), Band("c", 900, 950)]


def elements(drawing: Drawing, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawing.file()).iter(SVG + name))


def test_timeline_has_bars_at_their_cycles() -> None:
    drawing = timeline(RUN, "a run")
    texts = [element.text for element in elements(drawing, "text")]
    assert texts.count("GEMM") == texts.count("LOAD") == 2 and "a run: 1,000 cycles" in texts
    assert texts[texts.index("GEMM") + 1] == "77.0 %"  # 200 + 260 + 260 + 50
    assert "blocks.0: cycles 300 to 900" in texts
    # In the window of the block 520 of 600 cycles; the embedding's GEMM ended before it.
    assert texts[len(texts) - texts[::-1].index("GEMM")] == "86.7 %"
    unit = (WIDTH - LEFT - RIGHT) / 1000
    fc1 = next(bar for bar in elements(drawing, "rect") if (bar[0].text if len(bar) else "") == "head: 950 to 1,000")
    assert float(fc1.attrib["x"]) == pytest.approx(LEFT + 950 * unit, abs=0.01)
    assert float(fc1.attrib["width"]) == pytest.approx(50 * unit, abs=0.01)
    assert fc1.attrib["class"] == Kind.ENDS.series
    legend = [text for text in texts if text in {kind.value for kind in Kind}]
    assert legend == [kind.value for kind in (Kind.PROJECTION, Kind.MLP, Kind.NORM, Kind.ENDS)]


def test_timeline_of_many_descriptors_is_small() -> None:
    layers = ("blocks.0.attn.q", "blocks.0.mlp.fc1", "selectors.0.norm")
    many = [span(Unit.GEMM, layers[i % 3], 10 * i, 10 * i + 6) for i in range(100_000)]
    assert len(timeline(many, "many").file()) < 300_000


def test_roofline_places_layers_under_their_roof() -> None:
    layers = [
        Work("blocks.0.mlp.fc1", macs=64_000, ddr_bytes=100, cycles=1000),  # 64 a cycle: the peak
        Work("head", macs=1000, ddr_bytes=1000, cycles=250),  # 4 a cycle at 1 a byte: the bandwidth
        Work("blocks.0.attn.scores", macs=32_000, ddr_bytes=0, cycles=1000),
    ]
    whole = Work("whole network", macs=97_000, ddr_bytes=1100, cycles=2500)
    drawing = roofline(layers, whole, peak=64, bytes_per_cycle=4, title="a run")
    fc1, head, scores, *rings = elements(drawing, "circle")
    roof = elements(drawing, "polyline")[0].attrib["points"].split()
    (left, bottom), (ridge, top), (_, end) = (tuple(map(float, point.split(","))) for point in roof)
    assert top == end == pytest.approx(float(fc1.attrib["cy"]), abs=0.1)
    assert float(scores.attrib["cx"]) == NO_TRAFFIC_X and float(scores.attrib["cy"]) > top
    slope = (bottom - top) / (left - ridge)
    on_slope = top + slope * (float(head.attrib["cx"]) - ridge)
    assert float(head.attrib["cy"]) == pytest.approx(on_slope, abs=0.2)
    assert len(rings) == 2 and float(rings[0].attrib["cy"]) > top
    assert "whole network: 39 a cycle, 60.6 % of the array" in [text.text for text in elements(drawing, "text")]
    assert fc1[0].text == "blocks.0.mlp.fc1: 64 multiply-accumulates a cycle, 640.0 a byte"


def test_files_stand_alone() -> None:
    text = timeline(RUN, "a < b").file()
    assert ElementTree.fromstring(text).tag == SVG + "svg"
    assert "a &lt; b" in text and "light-dark" not in text and not re.findall(r"(?:href|url)", text)
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert used and used <= set(re.findall(r"--([\w-]+): #", text))


def result(**changes: Any) -> dict[str, Any]:
    """What bench_cycles returns, of a small pruned network."""
    layer = {
        "layer": "head", "macs": 2_000_000, "ideal_cycles": 10, "ddr_bytes": 1234, "array_cycles": 12, "cycles": 5432,
        "utilisation": 0.5, "stall": "store", "stalls": {"operand": 0, "drain": 77},
    }  # fmt: skip
    return {
        "network": "small", "weights_sha256": "ab" * 32, "images": "<pictures>", "count": 2, "keep": [4],
        "config": CONFIGS["tiny"].to_dict(), "ddr": {"bytes_per_cycle": 51.0, "latency_cycles": 60}, "mismatches": 0,
        "layers_compared": 34, "first_problem": None, "tokens": [[5, 4], [5, 3]], "model_error_total": -0.0123,
        "gmac": 0.002, "cycles_per_picture": 5432.0, "utilisation": 0.875, "ddr_bytes": 2_500_000.0,
        "fps_at_an_assumed_clock": {"250 MHz": 46023.6}, "unit_busy": {"gemm": 0.9}, "unit_wait": {"gemm": 0.05},
        "unit_stall": {"gemm": {"operand": 0.0125, "weight": 0.034, "drain": 0.0}},
        "layers": [layer], "selector_cost": 0.031, "pruning_efficiency": 0.942, "scaled_cycles": 5000.0,
        "scale_gmac": 0.0018, **changes,
    }  # fmt: skip


def test_page_shows_the_numbers() -> None:
    drawing = timeline(RUN, "a run")
    page = render_cycles("small on tiny", result(), drawing, drawing)
    for text in (
        "0 mismatches", "34 tensors of 2 pictures", "5,432", "87.5 %", "2.50 MB", "-1.23 %", "3.1 %", "0.942", "5,000",
        "46024", "&lt;pictures&gt;", "5 / 4; 5 / 3", "1,234", "store",
        "1.2 %", "3.4 %", "drain 77",
    ):  # fmt: skip
        assert text in page, text
    assert 'class="proof good"' in page and page.count("<svg") == 2
    dense = render_cycles("small on tiny", result(keep=[], mismatches=3, first_problem="row 1"), drawing, drawing)
    assert 'class="proof bad"' in dense and "First divergence: row 1" in dense and "0.942" not in dense
