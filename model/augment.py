"""Random changes of training pictures: moved, cut out and enlarged, mirrored.

What is drawn is drawn for a whole batch, so that several processes can share it out (model/distributed.py).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.data import I64
from model.recipe import Recipe
from quant.network import U8

Bools: TypeAlias = NDArray[np.bool_]

LOG_ASPECT = float(np.log(4 / 3))
"""Cut-outs are between 3 : 4 and 4 : 3, as in Inception (CVPR 2015)."""


class Changes(NamedTuple):
    """What happens to each picture of a batch: shifts (B, 2) up and left, boxes (B, 4) cut out, is_mirrored (B,).

    A box is left, top, right, bottom in pixels.
    """

    shifts: I64
    boxes: I64
    is_mirrored: Bools


def draw_changes(rng: np.random.Generator, count: int, size: int, recipe: Recipe) -> Changes:
    """Draw the changes of `count` pictures of size x size pixels, as far as the recipe asks for them."""
    shifts = rng.integers(-recipe.max_shift, recipe.max_shift + 1, (count, 2))
    is_mirrored = rng.integers(0, 2, count).astype(bool) if recipe.is_flipped else np.zeros(count, bool)
    boxes = np.tile((0, 0, size, size), (count, 1))
    if recipe.min_crop < 1:
        area = rng.uniform(recipe.min_crop, 1, count)
        aspect = np.exp(rng.uniform(-LOG_ASPECT, LOG_ASPECT, count))
        sides = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1)
        sides = np.clip(np.round(size * sides), 1, size).astype(np.int64)  # width, height
        corners = rng.integers(0, size - sides + 1)
        boxes = np.concatenate([corners, corners + sides], axis=1)
    return Changes(shifts, boxes, is_mirrored)


def change_pictures(pictures_u8: U8, changes: Changes, max_shift: int) -> U8:
    """Return pictures (B, C, size, size), each changed as drawn; shifts are in -max_shift..max_shift."""
    moved = crop_pictures(shift_pictures(pictures_u8, changes.shifts, max_shift), changes.boxes)
    return np.where(changes.is_mirrored[:, None, None, None], moved[..., ::-1], moved)


def shift_pictures(pictures_u8: U8, shifts: I64, max_shift: int) -> U8:
    """Move pictures (B, C, size, size) up and left by shifts (B, 2) in -max_shift..max_shift; black comes in."""
    if max_shift == 0:
        return pictures_u8
    size = pictures_u8.shape[-1]
    padded = np.pad(pictures_u8, ((0, 0), (0, 0), (max_shift, max_shift), (max_shift, max_shift)))
    shifted = np.empty_like(pictures_u8)
    for index, (top, left) in enumerate((max_shift + shifts).tolist()):
        shifted[index] = padded[index, :, top : top + size, left : left + size]
    return shifted


def crop_pictures(pictures_u8: U8, boxes: I64) -> U8:
    """Enlarge a box (left, top, right, bottom) of each picture (B, C, size, size) to the whole of it (bicubic)."""
    size, channels = pictures_u8.shape[-1], pictures_u8.shape[1]
    cropped = pictures_u8.copy()
    for index, box in enumerate(boxes.tolist()):
        if box == [0, 0, size, size]:
            continue
        pixels = pictures_u8[index].transpose(1, 2, 0)
        image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if channels == 1 else pixels))
        enlarged = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box))
        cropped[index] = enlarged.reshape(size, size, channels).transpose(2, 0, 1)
    return cropped
