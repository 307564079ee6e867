"""Random changes of training pictures.

Testpoints: shifts move and fill with black; a box fills the picture, in grey and in colour, and its content is that of
a plain enlargement; mirroring; boxes stay inside, reach down to the area asked for and have no extreme shape; a recipe
without changes draws none and changes nothing; what is drawn depends on the seed alone.
"""

import numpy as np
import pytest
from PIL import Image

from model.augment import Changes, change_pictures, crop_pictures, draw_changes, shift_pictures
from model.recipe import Recipe, Stage

STAGE = Stage(1, 1e-3)
CROPPED = Recipe((), STAGE, STAGE, STAGE, min_crop=0.25, is_flipped=True, max_shift=3)


def test_shift_moves_and_fills_with_zero() -> None:
    pixels = np.full((200, 1, 4, 4), 9, np.uint8)
    pixels[:, :, 0, 0] = 7
    shifts = np.random.default_rng(0).integers(-2, 3, (200, 2))
    shifted = shift_pictures(pixels, shifts, 2)
    offsets = {tuple(np.argwhere(image[0] == 7)[0]) for image in shifted if (image == 7).any()}
    assert offsets == {(row, column) for row in range(3) for column in range(3)}
    assert all((image[0, :row] == 0).all() for image in shifted for row, _ in np.argwhere(image[0] == 7))
    assert shift_pictures(pixels[:1], np.array([[2, -1]]), 2)[0, 0].tolist() == [
        [0, 9, 9, 9],
        [0, 9, 9, 9],
        [0] * 4,
        [0] * 4,
    ]
    assert shift_pictures(pixels, np.zeros((200, 2), np.int64), 0) is pixels


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_a_box_fills_the_picture(channels: int, mode: str) -> None:
    pictures_u8 = np.random.default_rng(1).integers(0, 256, (2, channels, 12, 12), np.uint8)
    box = (2, 1, 8, 10)
    cropped = crop_pictures(pictures_u8, np.array([box, (0, 0, 12, 12)]))
    image = Image.merge(mode, [Image.fromarray(plane) for plane in pictures_u8[0]])
    expected = np.asarray(image.resize((12, 12), Image.Resampling.BICUBIC, box)).reshape(12, 12, channels)
    assert (cropped[0] == expected.transpose(2, 0, 1)).all() and (cropped[0] != pictures_u8[0]).any()
    assert (cropped[1] == pictures_u8[1]).all()


def test_changes_are_applied_in_order() -> None:
    pictures_u8 = np.random.default_rng(2).integers(0, 256, (3, 1, 6, 6), np.uint8)
    boxes = np.array([(0, 0, 6, 6), (1, 0, 5, 6), (0, 0, 6, 6)])
    changes = Changes(np.array([(1, 0), (0, 0), (0, 0)]), boxes, np.array([True, True, False]))
    changed = change_pictures(pictures_u8, changes, 1)
    moved = shift_pictures(pictures_u8, changes.shifts, 1)
    assert (changed[0] == moved[0, :, :, ::-1]).all()
    assert (changed[1] == crop_pictures(pictures_u8, boxes)[1, :, :, ::-1]).all()
    assert (changed[2] == pictures_u8[2]).all()


def test_drawn_boxes_have_the_area_and_shape_asked_for() -> None:
    changes = draw_changes(np.random.default_rng(3), 2000, 224, CROPPED)
    left, top, right, bottom = changes.boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 224 and bottom.max() <= 224
    width, height = right - left, bottom - top
    area, aspect = width * height / 224**2, width / height
    assert 0.245 < area.min() < 0.27 and 0.95 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.35
    assert left.max() > 90 and top.max() > 90 and 0.4 < changes.is_mirrored.mean() < 0.6
    assert set(changes.shifts.ravel().tolist()) == set(range(-3, 4))


def test_nothing_asked_for_changes_nothing() -> None:
    changes = draw_changes(np.random.default_rng(4), 5, 8, Recipe((), STAGE, STAGE, STAGE))
    pictures_u8 = np.random.default_rng(5).integers(0, 256, (5, 3, 8, 8), np.uint8)
    assert (change_pictures(pictures_u8, changes, 0) == pictures_u8).all()
    assert not changes.is_mirrored.any() and (changes.boxes == (0, 0, 8, 8)).all() and not changes.shifts.any()


def test_draws_depend_on_the_seed_alone() -> None:
    first, second, other = (draw_changes(np.random.default_rng(seed), 16, 32, CROPPED) for seed in (6, 6, 7))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (first.boxes != other.boxes).any()
