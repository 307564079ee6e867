"""The result of the delta study as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from heatvit.delta_measure import KINDS
from heatvit.seeds import Comparison, Spread

PERCENT = ("float_top1", "golden_top1", "top1_loss", "agreement", "relative_error")
ROWS = {
    "float_top1": "top-1, float, %",
    "golden_top1": "top-1, integer golden, %",
    "top1_loss": "top-1 lost, points",
    "agreement": "same class, %",
    "relative_error": "error of the logits / logits, %",
    "error_rms": "error of the logits",
    "logit_rms": "logits",
    "gelu_gain": "GELU: gain of an error",
    "gelu_relative_gain": "GELU: gain of a relative error",
}
"""What is printed, under which words."""


def study_tables(result: dict[str, Any]) -> list[Table]:
    """Return the tables: every setting, its layers, and its comparison with the first setting."""
    return [_settings(result), _layers(result), _comparisons(result)]


def _table(title: str, first: str, result: dict[str, Any], skipped: int = 0) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for setting in result["settings"][skipped:]:
        table.add_column(f"{setting['delta1']:g}, {setting['delta2']:g}", justify="right")
    return table


def _settings(result: dict[str, Any]) -> Table:
    table = _table(f"mean and standard deviation over {len(result['seeds'])} seeds", "delta1, delta2", result)
    for name, words in ROWS.items():
        table.add_row(words, *(_spread(setting[name], name in PERCENT) for setting in result["settings"]))
    return table


def _layers(result: dict[str, Any]) -> Table:
    table = _table("error / signal by kind of layer, % (its own rounding alone)", "delta1, delta2", result)
    for kind in KINDS:
        layers = [setting["layers"][kind] for setting in result["settings"]]
        table.add_row(
            kind, *(f"{_spread(each['error'], True)} ({100 * each['rounding']['mean']:.2f})" for each in layers)
        )
    return table


def _comparisons(result: dict[str, Any]) -> Table:
    first = result["settings"][0]
    title = f"against delta1 {first['delta1']:g}, delta2 {first['delta2']:g}, paired by seed, 95 % interval"
    table = _table(title, "delta1, delta2", result, skipped=1)
    for name, words in ROWS.items():
        compared = [setting["against_first"][name] for setting in result["settings"][1:]]
        table.add_row(words, *(_comparison(each, name in PERCENT) for each in compared))
    return table


def _spread(value: Spread, is_percent: bool) -> str:
    factor = 100 if is_percent else 1
    return f"{factor * value['mean']:.3g} ± {factor * value['std']:.2g}"


def _comparison(value: Comparison, is_percent: bool) -> str:
    return f"{value['mean']:.3g} ({value['low']:.3g} .. {value['high']:.3g})"
