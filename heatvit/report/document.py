"""A page as one self-contained HTML file that needs neither network nor server, and the parts that pages share."""

from __future__ import annotations

from collections.abc import Sequence

from heatvit.report.html import Child, Html, tag
from heatvit.report.style import SCRIPT, STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page promises the browser that it loads nothing; a slip becomes a visible error instead of a request."""


def document(title: str, subtitle: str, content: Sequence[Child], footer: str) -> str:
    """Return a whole page; `content` is its sections."""
    body = [
        tag(
            "header",
            tag("div", tag("h1", title), tag("p", subtitle)),
            tag("button", "Dark colours", id="theme", type="button", hidden=""),
        ),
        tag("main", *content),
        tag("footer", f"Made by heatvit. {footer}"),
        tag("script", Html(SCRIPT)),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Html(STYLE)),
    ]
    return "<!DOCTYPE html>\n" + tag("html", tag("head", *head), tag("body", *body), lang="en") + "\n"


def section(heading: str, lead: str | None, *content: Child) -> Html:
    """Return a section with a heading and an introducing sentence."""
    return tag("section", tag("h2", heading), tag("p", lead) if lead else None, *content)


def numbers(content: Html) -> Html:
    """Return the numbers behind a figure, folded away."""
    return tag("details", tag("summary", "Numbers behind the figure"), content)


def key_figures(tiles: Sequence[tuple[str, str]]) -> Html:
    """Return tiles of (value, what it is)."""
    return tag(
        "section",
        *(tag("div", tag("b", value), tag("span", text), class_="tile") for value, text in tiles),
        class_="tiles",
        aria_label="Key figures",
    )


def percent(fraction: float) -> str:
    """Write a fraction as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"
