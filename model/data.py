"""Labelled pictures as uint8 (B, C, height, width): digits, class folders, saved data sets, packs of pixels or JPEGs.

Encoded pictures are decoded when asked for, so a data set larger than memory works. Pillow is the only decoder.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from model.npz import read_npz
from model.picture_folder import class_files
from model.saved_dataset import is_saved_dataset, open_saved_dataset
from quant.config import NetworkConfig
from quant.network import U8

I64: TypeAlias = NDArray[np.int64]

CROP_RATIO = 0.875
"""A picture that is not of the network's size gets a short side of size / 0.875, then loses what is off the centre."""
PILLOW_MODES = {1: "L", 3: "RGB"}
PACK_SUFFIXES = (".npz", ".npz.xz")


class Pictures(Protocol):
    """A set of pictures: labels (N,) from 0, and pixels on request."""

    @property
    def labels(self) -> I64:
        """Class of each picture, (N,)."""

    def load(self, indices: I64) -> U8:
        """Return the pixels (len(indices), C, size, size)."""


@dataclass(frozen=True)
class PixelPictures:
    """Pictures held as pixels (N, C, size, size)."""

    pictures_u8: U8
    labels: I64

    def load(self, indices: I64) -> U8:
        return self.pictures_u8[indices]


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures held as encoded files, on disk (a path) or in memory (bytes); origin names the set of the latter."""

    sources: Sequence[Path] | Sequence[str | bytes]
    labels: I64
    image_size: int
    in_chans: int
    origin: str = "the pack"

    def load(self, indices: I64) -> U8:
        pixels = np.empty((len(indices), self.in_chans, self.image_size, self.image_size), np.uint8)
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
            for row, picture_u8 in enumerate(pool.map(self._decode, indices.tolist())):
                pixels[row] = picture_u8
        return pixels

    def _decode(self, index: int) -> U8:
        source = self.sources[index]
        name = f"number {index} of {self.origin}" if isinstance(source, bytes) else str(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        try:
            with Image.open(file) as image:
                return fit_picture(image, self.image_size, self.in_chans)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"picture {name} cannot be read: {error}") from error


@dataclass(frozen=True)
class SubsetPictures:
    """Some pictures of another set, by index."""

    pictures: Pictures
    indices: I64

    @property
    def labels(self) -> I64:
        return self.pictures.labels[self.indices]

    def load(self, indices: I64) -> U8:
        return self.pictures.load(self.indices[indices])


def fit_picture(image: Image.Image, image_size: int, in_chans: int) -> U8:
    """Return the pixels (C, size, size) of a picture in grey (in_chans 1) or colour (3).

    A picture of exactly this size is taken as it is; any other is resized (bicubic) and cropped, see CROP_RATIO.
    """
    image = image.convert(PILLOW_MODES[in_chans])
    if image.size != (image_size, image_size):
        factor = round(image_size / CROP_RATIO) / min(image.size)
        width, height = (max(image_size, round(length * factor)) for length in image.size)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image, np.uint8).reshape(image_size, image_size, in_chans).transpose(2, 0, 1)


def load_pictures(source: str, config: NetworkConfig) -> Pictures:
    """Return the pictures of a source, fitted to a network.

    source is "digits", a folder with one sub-folder a class, one that Hugging Face's `Dataset.save_to_disk` wrote (of a
    DatasetDict, that of a split), or an .npz or .npz.xz pack.
    Raises ValueError naming the file or field that is wrong.
    """
    if config.in_chans not in PILLOW_MODES:
        raise ValueError(f"in_chans must be 1 or 3 to load pictures, not {config.in_chans!r}")
    path = Path(source)
    if source == "digits":
        pictures: Pictures = _embedded_digits(config)
    elif is_saved_dataset(path):
        pictures = _saved(path, config)
    elif path.is_dir():
        pictures = _folder(path, config)
    elif path.name.endswith(PACK_SUFFIXES) and path.is_file():
        pictures = _pack(path, config)
    else:
        raise ValueError(f'pictures must be "digits", a folder or an .npz or .npz.xz file that exists, not {source!r}')
    labels = pictures.labels
    if not len(labels) or labels.min() < 0 or labels.max() >= config.num_classes:
        found = f"{labels.min()}..{labels.max()}" if len(labels) else "no picture"
        raise ValueError(f"labels of {source} must be in 0..{config.num_classes - 1}, not {found}")
    return pictures


def _embedded_digits(config: NetworkConfig) -> PixelPictures:
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels of 0..16, resized (bilinear) to the network's size."""
    digits = load_digits()
    size = (config.image_size, config.image_size)
    pixels = [
        np.asarray(Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
        for image in digits.images
    ]
    pictures_u8 = np.repeat(np.stack(pixels)[:, None], config.in_chans, axis=1)
    return PixelPictures(pictures_u8, digits.target.astype(np.int64))


def _folder(path: Path, config: NetworkConfig) -> EncodedPictures:
    """Classes are the sub-folders in alphabetic order."""
    classes = class_files(path)
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes])
    return EncodedPictures(list(chain.from_iterable(classes)), labels, config.image_size, config.in_chans)


def _saved(path: Path, config: NetworkConfig) -> EncodedPictures:
    saved = open_saved_dataset(path)
    return EncodedPictures(saved.pictures, saved.labels, config.image_size, config.in_chans, str(path))


def _pack(path: Path, config: NetworkConfig) -> Pictures:
    """Read `images` (N, height, width[, C]) uint8, or JPEGs in `bytes` with `offsets` (N + 1), and `labels` (N)."""
    arrays = read_npz(path, ("images", "bytes", "offsets", "labels"))
    if "labels" not in arrays or not ("images" in arrays or {"bytes", "offsets"} <= set(arrays)):
        raise ValueError(f"pack {path} must hold labels and either images or bytes and offsets, not {sorted(arrays)}")
    labels = arrays["labels"].astype(np.int64)
    if "images" in arrays:
        return PixelPictures(_fit_pixels(path, arrays["images"], len(labels), config), labels)
    offsets, content = arrays["offsets"].astype(np.int64), arrays["bytes"]
    if len(offsets) != len(labels) + 1 or np.any(np.diff(offsets) < 0) or offsets[0] < 0 or offsets[-1] > len(content):
        raise ValueError(f"offsets of pack {path} must ascend within bytes, one more than there are labels")
    sources = [content[start:end].tobytes() for start, end in pairwise(offsets)]
    return EncodedPictures(sources, labels, config.image_size, config.in_chans)


def _fit_pixels(path: Path, images: U8, num_labels: int, config: NetworkConfig) -> U8:
    is_picture = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in PILLOW_MODES)
    if images.dtype != np.uint8 or not is_picture or len(images) != num_labels:
        raise ValueError(
            f"images of pack {path} must be uint8 ({num_labels}, height, width[, C]), not {images.dtype} {images.shape}"
        )
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    return np.stack([fit_picture(Image.fromarray(image), config.image_size, config.in_chans) for image in images])


def split_pictures(pictures: Pictures, test_ratio: float, seed: int) -> tuple[SubsetPictures, SubsetPictures]:
    """Return (train, test): of each class, a random test_ratio of its pictures (rounded) is for testing."""
    if not 0 < test_ratio < 1:
        raise ValueError(f"test_ratio must be between 0 and 1, not {test_ratio!r}")
    rng = np.random.default_rng(seed)
    is_test = np.zeros(len(pictures.labels), bool)
    for label in np.unique(pictures.labels):
        members = rng.permutation(np.flatnonzero(pictures.labels == label))
        is_test[members[: round(test_ratio * len(members))]] = True
    return SubsetPictures(pictures, np.flatnonzero(~is_test)), SubsetPictures(pictures, np.flatnonzero(is_test))


def batches(pictures: Pictures, batch_size: int, order: I64 | None = None) -> Iterator[tuple[U8, I64]]:
    """Yield (pixels, labels) batch by batch, in the given order or as stored; the last batch may be smaller."""
    order = np.arange(len(pictures.labels)) if order is None else order
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield pictures.load(indices), pictures.labels[indices]
