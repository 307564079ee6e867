"""The page of a cycle measurement: timeline, roofline, what every layer and unit took."""

from __future__ import annotations

from typing import Any

from heatvit.report.document import document, key_figures, percent, section
from heatvit.report.drawing import Drawing
from heatvit.report.html import Child, Html, table, tag
from hw.regmap import Stall


def render_cycles(title: str, result: dict[str, Any], timeline: Drawing, roofline: Drawing) -> str:
    """Return the page of a result of heatvit.bench.bench_cycles whose pictures ran to their end."""
    ddr = result["ddr"]
    memory = (
        f"{ddr['bytes_per_cycle']:g} bytes a cycle over all ports, {ddr['latency_cycles']} cycles to the first beat"
    )
    content = (
        _proof(result),
        key_figures(_figures(result)),
        section(
            "Timeline",
            "When each unit had a descriptor, in the first run; below, one block. Bands are the array's time.",
            tag("div", timeline.inline(), class_="card"),
        ),
        section(
            "Roofline",
            "A layer stands at its own DDR traffic and at the array's time for it. Weights are loaded while others "
            "compute, so that a layer can be above the slope.",
            tag("div", roofline.inline(), class_="card"),
        ),
        section("Units", None, tag("div", _units(result), class_="card")),
        section("Layers", "In the order in which they end.", tag("div", _layers(result), class_="card")),
        section("Measured on", None, tag("div", _conditions(result, memory), class_="card")),
    )
    return document(
        title, f"Simulated RTL with a model of its DDR: {memory}", content, "result.json holds the numbers."
    )


def _proof(result: dict[str, Any]) -> Html:
    passed = result["mismatches"] == 0 and result["layers_compared"] > 0
    headline = f"{result['mismatches']} mismatch{'' if result['mismatches'] == 1 else 'es'}"
    pictures = "1 picture" if result["count"] == 1 else f"{result['count']} pictures"
    return tag(
        "section",
        tag("strong", "\N{CHECK MARK} " if passed else "\N{BALLOT X} ", headline),
        tag("p", f"RTL against golden model: {result['layers_compared']} tensors of {pictures}, bit for bit."),
        tag("p", f"First divergence: {result['first_problem']}") if result["first_problem"] else None,
        class_=f"proof {'good' if passed else 'bad'}",
        aria_label="Proof: simulated hardware against the golden model",
    )


def _figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    figures = [
        (f"{result['cycles_per_picture']:,.0f}", "cycles a picture"),
        (percent(result["utilisation"]), "of the array's peak"),
        (f"{result['gmac']:.3f}", "GMAC a picture"),
        (f"{result['ddr_bytes'] / 1e6:.2f} MB", "DDR traffic a picture"),
        (f"{100 * result['model_error_total']:+.2f} %", "error of the cycle model"),
    ]
    if result["keep"]:
        figures += [
            (percent(result["selector_cost"]), "of the cycles are the selectors'"),
            (f"{result['pruning_efficiency']:.3f}", "saving in cycles for that in work"),
            (f"{result['scaled_cycles']:,.0f}", f"cycles scaled to {result['scale_gmac']:.3f} GMAC"),
        ]
    return figures


def _units(result: dict[str, Any]) -> Html:
    reasons = [stall.value for stall in Stall]
    rows: list[list[Child]] = [
        [unit, percent(share), percent(result["unit_wait"][unit]), *(_share(result, unit, name) for name in reasons)]
        for unit, share in result["unit_busy"].items()
    ]
    caption = "Share of all cycles with a descriptor, waiting for another unit, and held up; weight is part of waiting"
    return table(["unit", "busy", "waiting", *reasons], rows, caption)


def _share(result: dict[str, Any], unit: str, reason: str) -> str:
    """Return the share of a stall, or nothing where it is not counted."""
    share = result["unit_stall"][unit].get(reason)
    return "" if share is None else percent(share)


def _layers(result: dict[str, Any]) -> Html:
    rows: list[list[Child]] = [
        [
            row["layer"],
            f"{row['macs'] / 1e9:.4f}",
            f"{row['ideal_cycles']:,.0f}",
            f"{row['array_cycles']:,.0f}",
            f"{row['cycles']:,.0f}",
            "" if row["utilisation"] is None else percent(row["utilisation"]),
            f"{row['ddr_bytes']:,.0f}",
            row["stall"],
            ", ".join(f"{reason} {count:,.0f}" for reason, count in row["stalls"].items() if count > 0),
        ]
        for row in result["layers"]
    ]
    headings = ["layer", "GMAC", "ideal cycles", "array cycles", "cycles", "utilisation", "DDR bytes", "main stall"]
    caption = (
        "Array cycles go from the end of the GEMM before to the end of each of the layer's; cycles are by how much the "
        "layer moved the end of everything before it. Losses: array cycles of the first run beyond the ideal ones."
    )
    return table([*headings, "losses"], rows, caption)


def _conditions(result: dict[str, Any], memory: str) -> Html:
    rows: list[list[Child]] = [
        ["network", result["network"]],
        ["weights, SHA-256", result["weights_sha256"]],
        ["pictures", f"{result['count']} of {result['images']}"],
        ["live tokens", "; ".join(" / ".join(map(str, tokens)) for tokens in result["tokens"])],
        ["memory", memory],
    ]
    rows += [
        [f"frames a second at an assumed {clock}", f"{rate:.0f}"]
        for clock, rate in result["fps_at_an_assumed_clock"].items()
    ]
    rows += [[f"accelerator: {name}", value] for name, value in result["config"].items()]
    return table(["", "value"], rows, "Everything that the cycles depend on; no clock was closed")
