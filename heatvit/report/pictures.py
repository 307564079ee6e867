"""Pictures with the patches that each selector pruned covered in grey."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatvit.report.html import Html, tag


@dataclass(frozen=True)
class PictureResult:
    """One picture and what the network made of it.

    pixels_u8 (channels, height, width) with 1 or 3 channels; kept_patches holds, for each selector, the patch
    indices (0 = top left, row by row) that were live after it.
    """

    pixels_u8: NDArray[np.uint8]
    label: int | None
    prediction: int
    kept_patches: tuple[tuple[int, ...], ...]


def png_data_uri(pixels_u8: NDArray[np.uint8]) -> str:
    """Encode (channels, height, width) pixels, 1 or 3 channels, as a PNG data URI."""
    if pixels_u8.ndim != 3 or pixels_u8.shape[0] not in (1, 3):
        raise ValueError(f"pixels must be (1 or 3, height, width), not {pixels_u8.shape!r}")
    plane = pixels_u8[0] if pixels_u8.shape[0] == 1 else np.moveaxis(pixels_u8, 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture_card(number: int, picture: PictureResult, patch_size: int) -> Html:
    """Return a figure: the input, then the picture after each selector, and the verdict below."""
    uri = png_data_uri(picture.pixels_u8)
    _, height, width = picture.pixels_u8.shape
    num_patches = (height // patch_size) * (width // patch_size)
    stages = [_stage(uri, height, width, patch_size, range(num_patches), f"Picture {number}: the input", "input")]
    for index, kept in enumerate(picture.kept_patches):
        alt = f"Picture {number} after selector {index}: {len(kept)} of {num_patches} patches kept"
        stages.append(_stage(uri, height, width, patch_size, kept, alt, f"{len(kept)} / {num_patches}"))
    if picture.label is None:
        verdict, kind = f"class {picture.prediction}", "none"
    elif picture.label == picture.prediction:
        verdict, kind = f"class {picture.prediction}, right", "right"
    else:
        verdict, kind = f"class {picture.prediction}, should be {picture.label}", "wrong"
    return tag(
        "figure",
        tag("div", *stages, class_="stages"),
        tag("figcaption", f"#{number}: ", tag("span", verdict, class_=f"verdict {kind}")),
        class_="picture",
        data_verdict=kind,
    )


def _stage(uri: str, height: int, width: int, patch_size: int, kept: Collection[int], alt: str, caption: str) -> Html:
    per_row = width // patch_size
    covers = [
        tag(
            "rect",
            x=patch % per_row * patch_size,
            y=patch // per_row * patch_size,
            width=patch_size,
            height=patch_size,
            class_="pruned",
        )
        for patch in range(per_row * (height // patch_size))
        if patch not in kept
    ]
    image = tag("image", href=uri, width=width, height=height)
    drawing = tag("svg", tag("title", alt), image, *covers, viewBox=f"0 0 {width} {height}", role="img", aria_label=alt)
    return tag("div", drawing, tag("small", caption), class_="stage")
