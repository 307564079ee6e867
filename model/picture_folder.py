"""Folders of pictures: one sub-folder a class, and a folder that holds such a folder for training and one for testing.

ImageNet's own layout is both: .../train/n01440764/*.JPEG, whose classes are the synsets in alphabetic order, and
.../val/n01440764/*.JPEG.
"""

from __future__ import annotations

import os
from pathlib import Path

from model.saved_dataset import is_saved_dataset

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_FOLDERS = ("val", "validation", "test")
"""Names of a folder of test pictures beside `train`, best first: ImageNet's `test` has no labels."""


def picture_files(folder: Path) -> list[str]:
    """Return the paths of the pictures in a folder, in alphabetic order, without hidden files and other kinds."""
    with os.scandir(folder) as entries:  # without a call to the system for each of a million files
        return sorted(
            entry.path
            for entry in entries
            if entry.name.lower().endswith(PICTURE_SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
        )


def sub_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in alphabetic order, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_files(folder: Path) -> list[list[str]]:
    """Return the pictures of each class. Raises ValueError if a sub-folder holds none."""
    files = []
    for member in sub_folders(folder):
        files.append(picture_files(member))
        if not files[-1]:
            kinds = ", ".join(PICTURE_SUFFIXES)
            wrong = "is a set of its own" if _is_labelled(member) else f"holds no picture ({kinds})"
            raise ValueError(f"{folder} must hold one sub-folder a class, but {member} {wrong}")
    return files


def train_and_test(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of training and test pictures in a folder that has both, or None.

    Raises ValueError if the test pictures have no labels.
    """
    train = folder / "train"
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if test is None or not train.is_dir() or not _is_labelled(train):
        return None
    if not _is_labelled(test):
        raise ValueError(f"{test} must hold one sub-folder a class, as {train} does")
    return train, test


def _is_labelled(folder: Path) -> bool:
    return is_saved_dataset(folder) or bool(sub_folders(folder))
