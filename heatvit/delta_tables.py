"""The result of the delta study as tables for the terminal and as a drawing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from heatvit.delta_measure import KINDS, SHARES, SIZES
from heatvit.report.drawing import Drawing
from heatvit.report.seed_lines import Panel, seed_lines
from heatvit.seeds import Comparison, Spread


def study_tables(result: dict[str, Any]) -> list[Table]:
    """Return the tables: every setting, its layers, and its comparison with the first setting."""
    settings = result["settings"]
    measured = _table(f"mean and standard deviation of {len(result['seeds'])} seeds", settings)
    for name, words in SHARES.items():
        measured.add_row(words, *(_spread(setting[name], 100) for setting in settings))
    for name, words in SIZES.items():
        measured.add_row(words, *(_spread(setting[name]) for setting in settings))

    layers = _table("error / signal, % (by the rounding of the layer's own result alone)", settings)
    for kind in KINDS:
        noise = [setting["layers"][kind] for setting in settings]
        layers.add_row(
            kind, *(f"{_spread(each['error'], 100)} ({100 * each['rounding']['mean']:.2f})" for each in noise)
        )

    compared = _table(f"against {_name(settings[0])}, seed by seed: mean (95 % interval)", settings[1:])
    compared.caption, compared.caption_justify = "* the interval excludes no change", "left"
    for name, words in (SHARES | SIZES).items():
        show = _difference if name in SHARES else _ratio
        compared.add_row(words, *(show(setting["against_first"][name]) for setting in settings[1:]))
    return [measured, layers, compared]


def study_drawing(result: dict[str, Any]) -> Drawing:
    """Return the drawing: what every seed gave under every setting."""
    settings, seeds, runs = result["settings"], result["seeds"], result["runs"]

    def panel(title: str, name: str) -> Panel:
        values = [[100 * run[name] for run in runs if run["seed"] == seed] for seed in seeds]
        return Panel(title, values)

    panels = [
        panel("error of the logits / logits, %", "relative_error"),
        panel("same class in float and integers, %", "agreement"),
        panel("top-1 of the integers, %", "golden_top1"),
    ]
    title = "Quantization after training with other delta1 and delta2"
    return seed_lines(title, panels, [_name(setting) for setting in settings], seeds, "delta1, delta2")


def _table(title: str, settings: Iterable[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("delta1, delta2", no_wrap=True)
    for setting in settings:
        table.add_column(_name(setting), justify="right", no_wrap=True)
    return table


def _name(setting: dict[str, Any]) -> str:
    return f"{setting['delta1']:g}, {setting['delta2']:g}"


def _spread(value: Spread, factor: float = 1) -> str:
    return f"{factor * value['mean']:.4g} ± {factor * value['std']:.2g}"


def _difference(value: Comparison) -> str:
    mean, low, high = (f"{100 * value[name]:+.2f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} .. {high}){_mark(value)}"


def _ratio(value: Comparison) -> str:
    return f"x {value['mean']:.3f} ({value['low']:.3f} .. {value['high']:.3f}){_mark(value)}"


def _mark(value: Comparison) -> str:
    """A place of its own, so that numbers stay below each other."""
    return " *" if value["is_resolved"] else "  "
