"""The report page of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from heatvit.report import charts
from heatvit.report.document import document, key_figures, numbers, percent, section
from heatvit.report.html import Child, Html, table, tag
from heatvit.report.pictures import PictureResult, picture_card
from heatvit.report.schema import Report


def render(report: Report, pictures: Sequence[PictureResult]) -> str:
    """Return the whole page. The pictures are those that ran on the RTL, in order."""
    content = (
        _proof(report),
        _tiles(report),
        _accuracy(report),
        _pictures(report, pictures),
        _kept_tokens(report),
        _cycles(report),
        _configuration(report),
        _methods(report),
    )
    return document(report["title"], _subtitle(report), content, "Every number of this page is in report.json.")


def _subtitle(report: Report) -> str:
    network, config = report["network"], report["config"]
    return (
        f"{network['depth']} blocks of {network['embed_dim']} channels, {network['num_heads']} heads, "
        f"{len(network['selectors'])} token selectors; an array of {config['rows']} x {config['columns']} x "
        f"{config['depth']} multiply-accumulates"
    )


def _proof(report: Report) -> Html:
    rtl = report["rtl"]
    passed = rtl["mismatches"] == 0 and rtl["layers_compared"] > 0 and report["qat_equals_golden"]
    headline = f"{rtl['mismatches']} mismatch{'' if rtl['mismatches'] == 1 else 'es'}"
    compared = f"RTL against golden model: {rtl['layers_compared']} tensors of {rtl['images']} pictures, bit for bit."
    qat = f"Quantization-aware training {'equals' if report['qat_equals_golden'] else 'DIFFERS FROM'} the golden model "
    return tag(
        "section",
        tag("strong", "\N{CHECK MARK} " if passed else "\N{BALLOT X} ", headline),
        tag("p", compared),
        tag("p", qat, f"on {report['qat_images']} pictures."),
        tag("p", f"First divergence: {rtl['first_divergence']}") if rtl["first_divergence"] else None,
        class_=f"proof {'good' if passed else 'bad'}",
        id="proof",
        aria_label="Proof: simulated hardware against the golden model",
    )


def _tiles(report: Report) -> Html:
    accuracy, macs, cycles = report["accuracy"], report["macs"], report["rtl"]["cycles"]
    tiles = [
        (percent(accuracy["float_dense"]), "float, all tokens"),
        (percent(accuracy["golden_dense"]), "integers, all tokens"),
        (percent(accuracy["golden_pruned"]), "integers, pruned tokens"),
        (percent(1 - macs["pruned_mean"] / macs["dense"]), "fewer multiply-accumulates"),
        (f"{sum(cycles) / len(cycles):,.0f}" if cycles else "-", "cycles a picture (mean)"),
    ]
    return key_figures(tiles)


def _accuracy(report: Report) -> Html:
    accuracy, macs = report["accuracy"], report["macs"]
    points = [
        charts.Point("float, dense", macs["dense"], 100 * accuracy["float_dense"], 0),
        charts.Point("integer, dense", macs["dense"], 100 * accuracy["golden_dense"], 1),
        charts.Point("integer, pruned", macs["pruned_mean"], 100 * accuracy["golden_pruned"], 2),
    ]
    curve = [
        charts.Point(f"each selector keeps {percent(point['keep_share'])}", point["macs"], 100 * point["accuracy"])
        for point in report["curve"]
    ]
    alt = "Top-1 accuracy against multiply-accumulates: " + "; ".join(
        f"{point.label} {point.y:.1f} % at {charts.compact(point.x)}" for point in points
    )
    rows: list[list[Child]] = [[point.label, f"{point.x:,.0f}", f"{point.y:.2f}"] for point in [*points, *curve]]
    return section(
        "Accuracy against work",
        f"Top-1 on all {report['test_images']} held-out pictures. The line moves the selectors' thresholds.",
        tag(
            "div",
            charts.scatter(points, curve, "multiply-accumulates a picture", "top-1 accuracy, %", alt),
            numbers(table(["network", "MACs", "top-1, %"], rows, "Accuracy and work")),
            class_="card wide",
        ),
    )


def _pictures(report: Report, pictures: Sequence[PictureResult]) -> Html:
    patch_size = int(report["network"]["patch_size"])
    return section(
        "What the selectors keep",
        "Each row: the input, then the same picture after each selector; grey patches were merged into the package "
        "token and cost nothing from there on.",
        tag("p", tag("button", "Wrong ones only", id="filter", type="button", aria_pressed="false", hidden="")),
        tag(
            "div",
            *(picture_card(number, picture, patch_size) for number, picture in enumerate(pictures)),
            class_="pictures",
        ),
    )


def _kept_tokens(report: Report) -> Html:
    cards = []
    for index, counts in enumerate(report["kept_tokens_histogram"]):
        block = report["network"]["selectors"][index]
        mean = sum(tokens * count for tokens, count in enumerate(counts)) / max(sum(counts), 1)
        alt = f"Histogram of live tokens after selector {index}: mean {mean:.1f} of {len(counts) - 1}"
        rows: list[list[Child]] = [[tokens, count] for tokens, count in enumerate(counts) if count]
        figure = charts.columns(counts, 0, "live tokens (CLS and package included)", "pictures", alt, 2)
        cards.append(
            tag(
                "div",
                tag("h3", f"Selector {index}, before block {block}: mean {mean:.1f} tokens"),
                figure,
                numbers(table(["live tokens", "pictures"], rows, f"Live tokens after selector {index}")),
                class_="card",
            )
        )
    if not cards:
        return section("Kept tokens", "This network has no selectors: every picture keeps all its tokens.")
    return section(
        "Kept tokens",
        f"Live tokens of each of the {report['test_images']} test pictures.",
        tag("div", *cards, class_="pair"),
    )


def _cycles(report: Report) -> Html:
    rtl = report["rtl"]
    alt = f"Cycles of each simulated picture: {min(rtl['cycles'], default=0):,} to {max(rtl['cycles'], default=0):,}"
    rows: list[list[Child]] = [
        [number, f"{cycles:,}", " / ".join(map(str, tokens))]
        for number, (cycles, tokens) in enumerate(zip(rtl["cycles"], rtl["kept_tokens"], strict=True))
    ]
    pictures = tag(
        "div",
        tag("h3", "By picture"),
        charts.columns(rtl["cycles"], 0, "picture", "cycles, start to done", alt, 0),
        numbers(table(["picture", "cycles", "live tokens"], rows, "Cycles and live tokens after each selector")),
        class_="card",
    )
    busy_rows: list[list[Child]] = [
        [unit, percent(share), percent(rtl["unit_wait"][unit])] for unit, share in rtl["unit_busy"].items()
    ]
    caption = "Share of all cycles with a descriptor, and waiting for another unit"
    units = tag("div", tag("h3", "By unit"), table(["unit", "busy", "waiting"], busy_rows, caption), class_="card")
    return section(
        "Cycles",
        "Counted by the simulated core itself. Every layer is stored for the comparison and the memory has no "
        "bandwidth limit, so these are no performance figures.",
        tag("div", pictures, units if busy_rows else None, class_="pair"),
    )


def _configuration(report: Report) -> Html:
    network: list[list[Child]] = [[key, str(value)] for key, value in report["network"].items()]
    accelerator: list[list[Child]] = [[key, value] for key, value in report["config"].items()]
    accelerator += [["config hash", report["config_hash"]]]
    seconds: list[list[Child]] = [[step, f"{value:.1f}"] for step, value in report["seconds"].items()]
    return section(
        "Configuration",
        None,
        tag(
            "div",
            tag("div", table(["field", "value"], network, "Network"), class_="card"),
            tag(
                "div",
                table(["field", "value"], accelerator, f"Accelerator {report['config_name']}"),
                tag("p", tag("small", f"Verilog SHA-256 {report['verilog_sha256']}"), style="overflow-wrap:anywhere"),
                class_="card",
            ),
            tag("div", table(["step", "seconds"], seconds, "Time of each step when it last ran"), class_="card"),
            class_="pair",
        ),
    )


def _methods(report: Report) -> Html:
    return section("What was measured, and how", None, tag("ul", *(tag("li", method) for method in report["methods"])))
