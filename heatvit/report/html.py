"""Markup as nested function calls; every string that is not already markup gets escaped."""

from __future__ import annotations

from html import escape
from typing import TypeAlias


class Html(str):
    """Text that is markup already and is inserted as it stands."""

    __slots__ = ()


Child: TypeAlias = "Html | str | int | float | None"
"""What an element may hold; plain strings and numbers are escaped, None adds nothing."""

_VOID = frozenset({"meta", "br", "hr"})


def join(*children: Child) -> Html:
    """Concatenate children, escaping those that are not markup."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(str(child), quote=False)
            for child in children
            if child is not None
        )
    )


def tag(name: str, /, *children: Child, **attributes: str | int | float | None) -> Html:
    """Return one element.

    Attribute names: a trailing underscore is dropped (`class_`), other underscores become hyphens
    (`stroke_width`); an attribute that is None is left out. Numbers are written with at most two decimals.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{pairs}>")
    return Html(f"<{name}{pairs}>{join(*children)}</{name}>")


def table(headings: list[str], rows: list[list[Child]], caption: str) -> Html:
    """Return a table whose first column heads its rows; columns after the first are set as numbers."""
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings))),
        tag(
            "tbody",
            *(tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows),
        ),
    )


def _plain(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
