"""Data sets of pictures that Hugging Face's `datasets` has written by `save_to_disk`.

A folder of such a data set holds Arrow files, the list of them in state.json, and in the schema of each what its
columns mean. The files are mapped into memory, not read, so a data set may be larger than memory. Only pyarrow is
needed, not `datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

STATE_FILE = "state.json"
FEATURES_KEY = b"huggingface"
"""Key of the schema's metadata that holds the features: for each column its type, for a ClassLabel its names, too."""


class EncodedColumn(Sequence["bytes | str"]):
    """The encoded pictures of a column, each fetched when asked for: its bytes, or the path of its file."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, index: int) -> bytes | str: ...
    @overload
    def __getitem__(self, index: slice) -> EncodedColumn: ...
    def __getitem__(self, index: int | slice) -> bytes | str | EncodedColumn:
        if isinstance(index, slice):
            return EncodedColumn(self.column[index])
        value: dict[str, Any] = self.column[index].as_py() or {}
        encoded: bytes | str = value.get("bytes") or value.get("path") or b""
        return encoded


@dataclass(frozen=True)
class SavedDataset:
    """Encoded pictures with their labels (N,), and the names of the classes if the data set has any."""

    pictures: EncodedColumn
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def is_saved_dataset(folder: Path) -> bool:
    """Tell whether a folder is what `Dataset.save_to_disk` writes; a DatasetDict has one such sub-folder a split."""
    return (folder / STATE_FILE).is_file()


def open_saved_dataset(folder: Path) -> SavedDataset:
    """Open a data set with one column of pictures and one of classes, which are found by their types.

    Classes are a ClassLabel, or integers if there is none. Raises ValueError if there is no such column or more than
    one, if a file is missing or corrupt, or if pyarrow is not installed.
    """
    table, features = _read(folder)
    image = _only(folder, "Image", _of_type(features, "Image"))
    integers = [name for name in _of_type(features, "Value") if "int" in features[name]["dtype"]]
    label = _only(folder, "ClassLabel or integer", _of_type(features, "ClassLabel") or integers)
    if missing := table[label].null_count:
        raise ValueError(f"column {label!r} of {folder} must have a class for every picture, {missing} have none")
    names = tuple(features[label].get("names", ()))
    return SavedDataset(EncodedColumn(table[image]), table[label].to_numpy().astype(np.int64), names)


def _of_type(features: dict[str, Any], kind: str) -> list[str]:
    """Return the columns of a type; the feature of a nested column is a list, or an object without a type."""
    return [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == kind]


def _only(folder: Path, kind: str, names: list[str]) -> str:
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ValueError(f"data set {folder} must have exactly one column of type {kind}, not {found}")
    return names[0]


def _read(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return (pyarrow table that is mapped into memory, features by column)."""
    try:
        import pyarrow
    except ImportError as error:
        install = "install it by: pip install -c constraints.txt -e '.[huggingface]'"
        raise ValueError(f"data set {folder} needs pyarrow ({error}); {install}") from error
    try:
        files = [folder / entry["filename"] for entry in json.loads((folder / STATE_FILE).read_text())["_data_files"]]
        tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in files]
        table = pyarrow.concat_tables(tables)
        table.validate(full=True)  # offsets that point outside the file are an error here and a crash later
        features: dict[str, Any] = json.loads(table.schema.metadata[FEATURES_KEY])["info"]["features"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"data set {folder} cannot be read: {type(error).__name__}: {error}") from error
    return table, features
