"""The compiled network: one .npz file with all that a board needs to run a network, and nothing that it must trust.

`heatvit compile` writes it. Loading executes nothing; every array and field is checked against the topology.

Imports: numpy, the standard library and modules that import nothing else, so that it also runs on the board.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AccelConfig
from hw.isa import DESCRIPTOR_BYTES, Descriptor, Opcode
from hw.layout import RunLayout
from quant.config import NetworkConfig
from quant.network import I8, I16, U8
from quant.patches import patch_codes, picture_shape

FORMAT_VERSION = 1

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """Pictures to try a board with, and what the golden model says of them.

    pictures_u8 (N, in_chans, image_size, image_size); logits_i16 (N, classes); num_tokens (N, selectors) live tokens
    after each selector; labels (N,), -1 where unknown.
    """

    pictures_u8: U8
    logits_i16: I16
    num_tokens: Integers
    labels: Integers


@dataclass(frozen=True)
class CompiledNetwork(RunLayout):
    """A program and its weights for one accelerator, and how pictures become its input.

    descriptors and weights as they lie in DDR; input_lut_i8 (in_chans, 256) maps a pixel to its code; logit_scale is
    the real value of one logit code.
    """

    descriptors: bytes
    weights: bytes
    output_bytes: int
    input_lut_i8: I8
    logit_scale: float
    samples: Samples | None = None

    def program_bytes(self) -> bytes:
        """Return the packed descriptors."""
        return self.descriptors

    def check_pictures(self, pictures_u8: NDArray[Any]) -> U8:
        """Return pictures as (B, in_chans, image_size, image_size); one picture may come without B.

        Raises ValueError if they have another type or shape.
        """
        shape = picture_shape(self.network_config)
        pictures = np.asarray(pictures_u8)
        if pictures.dtype != np.uint8 or pictures.shape[-3:] != shape or pictures.ndim not in (3, 4):
            raise ValueError(f"pictures must be uint8 {shape} or (B, *{shape}), not {pictures.dtype} {pictures.shape}")
        return pictures.reshape(-1, *shape)

    def pack_pictures(self, pictures_u8: U8) -> bytes:
        """Return the INPUT region of a run of 1 to `pictures` pictures (B, C, S, S); places left over are black."""
        missing = self.pictures - len(pictures_u8)
        filled = np.concatenate([pictures_u8, np.zeros((missing, *pictures_u8.shape[1:]), np.uint8)])
        return self.pack_input(*(patch_codes(picture, self.input_lut_i8, self.network_config) for picture in filled))

    def save(self, path: Path) -> None:
        """Write the file. Raises OSError."""
        facts = {
            "version": FORMAT_VERSION,
            "config": self.config.to_dict(),
            "network": self.network_config.to_dict(),
            "pictures": self.pictures,
            "output_bytes": self.output_bytes,
            "logit_scale": self.logit_scale,
        }
        arrays: dict[str, NDArray[Any]] = {
            "facts": np.frombuffer(json.dumps(facts, allow_nan=False).encode(), np.uint8),
            "descriptors": np.frombuffer(self.descriptors, np.uint8),
            "weights": np.frombuffer(self.weights, np.uint8),
            "input_lut": self.input_lut_i8,
        }
        if self.samples is not None:
            arrays |= {f"sample_{name}": getattr(self.samples, field) for name, field in _SAMPLE_FIELDS.items()}
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> CompiledNetwork:
        """Read a file. Raises OSError if it cannot be read, ValueError naming the file and what is wrong in it."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return _from_arrays({name: file[name] for name in file.files})
        except _READ_ERRORS as error:
            raise ValueError(f"{path} is no compiled network: {error}") from error


_READ_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy, zip and json raise for a file that is broken or something else; an OSError says enough itself."""

_SAMPLE_FIELDS = {"pictures": "pictures_u8", "logits": "logits_i16", "num_tokens": "num_tokens", "labels": "labels"}


def _from_arrays(arrays: Mapping[str, NDArray[Any]]) -> CompiledNetwork:
    """Return the network of a file's arrays. Raises ValueError naming what is wrong."""
    facts = json.loads(_take(arrays, "facts", np.uint8, (None,)).tobytes())
    if not isinstance(facts, dict) or facts.get("version") != FORMAT_VERSION:
        found = facts.get("version") if isinstance(facts, dict) else facts
        raise ValueError(f"version must be {FORMAT_VERSION}, not {found!r}")
    config, network = AccelConfig.from_dict(facts["config"]), NetworkConfig.from_dict(facts["network"])
    pictures = _whole(facts, "pictures", lambda value: 1 <= value <= config.pictures)
    layout = RunLayout(config, network, pictures)
    output_bytes = _whole(facts, "output_bytes", lambda value: value >= pictures * layout.result_bytes)
    scale = facts["logit_scale"]
    if not isinstance(scale, float) or not scale > 0:
        raise ValueError(f"logit_scale must be a positive number, not {scale!r}")
    descriptors = _take(arrays, "descriptors", np.uint8, (None,)).tobytes()
    is_whole = len(descriptors) > 0 and len(descriptors) % DESCRIPTOR_BYTES == 0
    if not is_whole or Descriptor.unpack(descriptors[-DESCRIPTOR_BYTES:]).opcode != Opcode.END:
        raise ValueError("descriptors must be whole and end with END")
    return CompiledNetwork(
        config=config,
        network_config=network,
        pictures=pictures,
        descriptors=descriptors,
        weights=_take(arrays, "weights", np.uint8, (None,)).tobytes(),
        output_bytes=output_bytes,
        input_lut_i8=_take(arrays, "input_lut", np.int8, (network.in_chans, 256)),
        logit_scale=scale,
        samples=_samples(arrays, network) if "sample_pictures" in arrays else None,
    )


def _samples(arrays: Mapping[str, NDArray[Any]], network: NetworkConfig) -> Samples:
    pictures = _take(arrays, "sample_pictures", np.uint8, (None, *picture_shape(network)))
    count = len(pictures)
    return Samples(
        pictures,
        _take(arrays, "sample_logits", np.int16, (count, network.num_classes)),
        _take(arrays, "sample_num_tokens", np.int64, (count, len(network.selectors))),
        _take(arrays, "sample_labels", np.int64, (count,)),
    )


def _take(
    arrays: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """Return an array of the file; None in shape allows any length."""
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted = ", ".join("N" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must be {np.dtype(dtype)} ({wanted}), not {array.dtype} {array.shape}")
    return array


def _whole(facts: Mapping[str, Any], name: str, is_allowed: Callable[[int], bool]) -> int:
    value = facts[name]
    if isinstance(value, bool) or not isinstance(value, int) or not is_allowed(value):
        raise ValueError(f"{name} must be a whole number that fits the network, not {value!r}")
    return value
