"""Kinds of layers, by which the figures of a run are coloured."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from heatvit.report.html import Html, tag


class Kind(Enum):
    """What a layer is, in the words of a legend."""

    PROJECTION = "attention: q, k, v, projection"
    ATTENTION = "attention: scores, softmax, context"
    MLP = "MLP"
    NORM = "LayerNorm"
    SELECTOR = "token selector"
    ENDS = "patch embedding, head"

    @property
    def series(self) -> str:
        """The CSS class of its colour."""
        return f"series-{list(Kind).index(self)}"


def layer_kind(layer: str) -> Kind:
    """Return the kind of a layer by its name (docs/architecture.md section 2)."""
    first, _, rest = layer.partition(".")
    if first == "selectors":
        return Kind.SELECTOR
    last = rest.rpartition(".")[2]
    if last in ("norm1", "norm2") or layer == "norm":
        return Kind.NORM
    if last in ("scores", "exp", "context"):
        return Kind.ATTENTION
    if last in ("q", "k", "v", "proj"):
        return Kind.PROJECTION
    return Kind.MLP if last in ("fc1", "fc2") else Kind.ENDS


def legend(kinds: Sequence[Kind], x: float, y: float, character: float = 6.6) -> list[Html]:
    """Draw a square and the name of each kind on one line that begins at (x, y); character is a letter's width."""
    marks = []
    for kind in kinds:
        marks.append(tag("rect", x=x, y=y - 10, width=12, height=12, rx=2, class_=kind.series))
        marks.append(tag("text", kind.value, x=x + 18, y=y))
        x += 18 + character * len(kind.value) + 18
    return marks
