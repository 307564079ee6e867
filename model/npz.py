"""Read .npz and .npz.xz archives from anywhere: nothing is executed, everything that can be wrong is one error."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

ERRORS = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What numpy and the decompressors raise for files that are broken or no archives."""


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive, or those of `names` that it has.

    Raises ValueError naming a file that is missing, corrupt or no archive of plain arrays.
    """
    try:
        with _open(path) as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive if names is None or name in names}
    except ERRORS as error:
        raise ValueError(f"archive {path} cannot be read: {error}") from error


def _open(path: Path) -> IO[bytes]:
    """Open an archive for reading; one that xz packed is unpacked in memory, because archives are read out of order."""
    return io.BytesIO(lzma.decompress(path.read_bytes())) if path.suffix == ".xz" else path.open("rb")
