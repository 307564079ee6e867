"""Pictures for a network by one word: the sources of model.data, the fixed split of the digits, unlabelled folders."""

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
"""The split that training and evaluation of the digits agree on, and of other sources without a split of their own."""


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

    source: "digits:train" or "digits:test", what `load_pictures` takes, or a folder of pictures; only the last has no
    labels. Raises ValueError naming what cannot be read.
    """
    is_labelled = not _is_flat_folder(Path(source))
    if source in ("digits:train", "digits:test"):
        split = load_split("digits", config)
        pictures = split.train if source == "digits:train" else split.test
    elif is_labelled:
        pictures = load_pictures(source, config)
    else:
        pictures = _unlabelled(Path(source), config)
    return pictures if count is None else first(pictures, count), is_labelled


def check_apart(images: str, calibrate: str) -> None:
    """Raise ValueError if two sources name the same pictures, or one the folder that holds the other."""
    paths = [Path(source).resolve() for source in (images, calibrate)]
    is_nested = paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])
    is_digits = "digits" in (images, calibrate) and all(source.startswith("digits") for source in (images, calibrate))
    if is_nested or is_digits:
        raise ValueError(f"calibration pictures must not be among those measured: {calibrate!r} and {images!r} overlap")


def first(pictures: Pictures, count: int) -> Pictures:
    """Return the first `count` pictures, or all if there are fewer."""
    return SubsetPictures(pictures, np.arange(min(count, len(pictures.labels))))


def load_all(pictures: Pictures) -> U8:
    """Return the pixels of all pictures (N, C, size, size)."""
    return pictures.load(np.arange(len(pictures.labels)))


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
