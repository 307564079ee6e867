"""Read .npz archives from anywhere: nothing is executed, everything that can be wrong is one kind of error."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive, or those of `names` that it has.

    Raises ValueError naming a file that is missing, corrupt or no archive of plain arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive if names is None or name in names}
    except (OSError, ValueError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"archive {path} cannot be read: {error}") from error
