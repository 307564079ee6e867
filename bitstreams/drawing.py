"""Pictures for the notebook: which patches a network kept, and a histogram. Needs Pillow, which PYNQ's images have.

Text is in Pillow's built-in font without a size, the only one that every version of Pillow has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from quant.config import NetworkConfig
from quant.network import U8

SIDE = 112
"""Pixels of a small picture when it is drawn; larger ones stay as they are."""
GAP = 6
CAPTION = 14
LOST_SHARE, LOST_TINT = 0.3, (70, 80, 130)
"""A patch that the network dropped: so much of it, the rest tint. Darkening would not show on a black background."""

PAPER, INK, BAR = (255, 255, 255), (40, 40, 40), (70, 120, 180)
HISTOGRAM_SIZE = (480, 180)
BINS = 24


def draw_kept_patches(picture_u8: U8, kept: NDArray[np.int64], config: NetworkConfig, caption: str) -> Image.Image:
    """Return a picture (C, S, S) beside itself with every patch tinted that is not in `kept`, and words below."""
    side = config.image_size // config.patch_size
    is_kept = np.isin(np.arange(config.num_patches), kept).reshape(side, side)
    is_lost = ~is_kept.repeat(config.patch_size, axis=0).repeat(config.patch_size, axis=1)
    rgb = np.broadcast_to(picture_u8, (3, *picture_u8.shape[1:])).transpose(1, 2, 0)
    tinted = (LOST_SHARE * rgb + (1 - LOST_SHARE) * np.array(LOST_TINT)).astype(np.uint8)
    scale = max(SIDE // config.image_size, 1)
    pair = [_image(pixels, scale) for pixels in (rgb, np.where(is_lost[..., None], tinted, rgb))]
    width, height = pair[0].size
    tile = Image.new("RGB", (2 * width + GAP, height + CAPTION), PAPER)
    tile.paste(pair[0], (0, 0))
    tile.paste(pair[1], (width + GAP, 0))
    ImageDraw.Draw(tile).text((0, height + 1), caption, fill=INK)
    return tile


def draw_sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Return tiles of one size in rows of `columns`. Raises ValueError if there is none."""
    if not tiles:
        raise ValueError("a sheet needs at least one tile")
    width, height = (length + 2 * GAP for length in tiles[0].size)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (min(columns, len(tiles)) * width, rows * height), PAPER)
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * width + GAP, index // columns * height + GAP))
    return sheet


def draw_histogram(values: Sequence[float], unit: str) -> Image.Image:
    """Return a histogram with its smallest, middle and largest value in words. Raises ValueError without values."""
    if not len(values):
        raise ValueError("a histogram needs at least one value")
    low, middle, high = (float(value) for value in np.quantile(values, (0, 0.5, 1)))
    counts, _ = np.histogram(values, BINS, (low, high if high > low else low + 1))
    width, height = HISTOGRAM_SIZE
    image = Image.new("RGB", HISTOGRAM_SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    base, step = height - 2 * CAPTION, (width - 2 * GAP) / BINS
    for index, count in enumerate(counts):
        left = GAP + index * step
        top = base - round((base - GAP) * count / counts.max())
        if count:
            draw.rectangle((round(left), top, round(left + step) - 2, base), fill=BAR)
    draw.line((GAP, base + 1, width - GAP, base + 1), fill=INK)
    words = f"min {low:.3g} {unit}, median {middle:.3g} {unit}, max {high:.3g} {unit}, {len(values)} values"
    draw.text((GAP, base + 6), words, fill=INK)
    return image


def _image(rgb: U8, scale: int) -> Image.Image:
    """Return (S, S, 3) pixels, every one `scale` times as large."""
    return Image.fromarray(np.ascontiguousarray(rgb.repeat(scale, axis=0).repeat(scale, axis=1)))
