"""A figure of SVG elements that can stand in a page or be a file of its own."""

from __future__ import annotations

from dataclasses import dataclass

from heatvit.report.html import Child, Html, tag
from heatvit.report.style import FILE_STYLE


@dataclass(frozen=True)
class Drawing:
    """Elements on a plane of width x height units; alt says in words what they show."""

    width: int
    height: int
    alt: str
    marks: tuple[Html, ...]

    def inline(self) -> Html:
        """Return the figure for a page that has heatvit.report.style.STYLE."""
        return self._svg()

    def file(self) -> str:
        """Return the figure as an SVG file that needs nothing else."""
        return self._svg(tag("style", Html(FILE_STYLE)), xmlns="http://www.w3.org/2000/svg") + "\n"

    def _svg(self, *first: Child, **attributes: str) -> Html:
        box = f"0 0 {self.width} {self.height}"
        return tag(
            "svg",
            tag("title", self.alt),
            *first,
            *self.marks,
            viewBox=box,
            role="img",
            aria_label=self.alt,
            **attributes,
        )
