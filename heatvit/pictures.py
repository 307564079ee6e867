"""Pictures for a network by one word: the sources of model.data, one side of their split, unlabelled folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.data import EncodedPictures, Pictures, SubsetPictures, load_pictures, split_pictures
from model.picture_folder import picture_files, sub_folders, train_and_test
from model.saved_dataset import is_saved_dataset, open_saved_dataset
from quant.config import NetworkConfig
from quant.network import U8

TEST_RATIO = 0.2
SPLIT_SEED = 0
"""The split of sources without one of their own, on which training and evaluation agree."""
PARTS = ("train", "test")
"""What may follow a source and a colon."""


@dataclass(frozen=True)
class Split:
    """Pictures to train with and pictures that training never sees."""

    train: Pictures
    test: Pictures


def load_split(source: str, config: NetworkConfig) -> Split:
    """Return the train and test pictures of a labelled source: its own split, or a random fifth of each class to test.

    A folder has its own split if it holds folders `train` and `val`, `validation` or `test`, with class folders or
    saved data sets. Raises ValueError as `load_pictures`, and if the two have different classes.
    """
    folders = train_and_test(Path(source))
    if folders is None:
        return Split(*split_pictures(load_pictures(source, config), TEST_RATIO, SPLIT_SEED))
    train, test = map(_class_names, folders)
    if different := sorted(set(train) ^ set(test)):
        raise ValueError(f"{folders[1]} must have the classes of {folders[0]}; {different[0]!r} is in one only")
    if train != test:
        raise ValueError(f"{folders[1]} must have the classes of {folders[0]} in the same order")
    return Split(*(load_pictures(str(folder), config) for folder in folders))


def open_pictures(source: str, config: NetworkConfig, count: int | None = None) -> tuple[Pictures, bool]:
    """Return (pictures, labelled): all of a source, or the first `count` of it.

    source: what `load_pictures` takes; what `load_split` takes with ":train" or ":test" behind it; or a folder of
    pictures, and only that has no labels. Raises ValueError naming what cannot be read.
    """
    is_labelled = not _is_flat_folder(Path(source))
    base, part = _base_and_part(source)
    if part is not None:
        split = load_split(base, config)
        pictures = split.train if part == "train" else split.test
    elif is_labelled:
        pictures = load_pictures(source, config)
    else:
        pictures = _unlabelled(Path(source), config)
    return pictures if count is None else first(pictures, count), is_labelled


def check_apart(images: str, calibrate: str) -> None:
    """Raise ValueError if two sources name the same pictures, or one the folder that holds the other."""
    (path, part), (other, other_part) = map(_place, (images, calibrate))
    is_nested = path.is_relative_to(other) or other.is_relative_to(path)
    are_sides = path == other and {part, other_part} == {*PARTS}
    if is_nested and not are_sides:
        raise ValueError(f"calibration pictures must not be among those measured: {calibrate!r} and {images!r} overlap")


def first(pictures: Pictures, count: int) -> Pictures:
    """Return the first `count` pictures, or all if there are fewer."""
    return SubsetPictures(pictures, np.arange(min(count, len(pictures.labels))))


def load_all(pictures: Pictures) -> U8:
    """Return the pixels of all pictures (N, C, size, size)."""
    return pictures.load(np.arange(len(pictures.labels)))


def _base_and_part(source: str) -> tuple[str, str | None]:
    """Return (base, part) of BASE:train and BASE:test, and (source, None) of any other source."""
    base, _, part = source.rpartition(":")
    return (base, part) if part in PARTS and base and not Path(source).exists() else (source, None)


def _place(source: str) -> tuple[Path, str | None]:
    """Return where the pictures of a source are, and which side of the split of that place they are."""
    base, part = _base_and_part(source)
    folders = train_and_test(Path(base)) if part else None
    if folders is None:
        return Path(base).resolve(), part
    return folders[PARTS.index(part or "train")].resolve(), None


def _class_names(folder: Path) -> tuple[str, ...]:
    if is_saved_dataset(folder):
        return open_saved_dataset(folder).class_names
    return tuple(member.name for member in sub_folders(folder))


def _is_flat_folder(path: Path) -> bool:
    return path.is_dir() and not is_saved_dataset(path) and not sub_folders(path)


def _unlabelled(path: Path, config: NetworkConfig) -> Pictures:
    files = picture_files(path)
    if not files:
        raise ValueError(f"folder {path} holds no picture")
    return EncodedPictures(files, np.zeros(len(files), np.int64), config.image_size, config.in_chans)
