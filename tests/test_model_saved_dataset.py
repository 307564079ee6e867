"""Data sets that Hugging Face's `datasets` has saved.

Testpoints: pictures and labels of several files and record batches, by the types of their columns; bytes and paths;
integer labels if no column is a ClassLabel; nothing is read into memory before it is asked for; columns that are
missing or ambiguous, labels and pictures that are missing, files that are missing or corrupt, and a missing pyarrow are
refused; what `datasets` itself writes is read, where it is installed.
"""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from saved_datasets import CLASSES, IMAGE, encoded_picture, image_cell, save, value

from model.config import NETWORKS
from model.data import load_pictures
from model.saved_dataset import is_saved_dataset, open_saved_dataset

COLOUR = replace(NETWORKS["test_tiny"], in_chans=3)
LABELS = [0, 2, 1, 0, 2, 2, 1]
FEATURES = {"id": value("int32"), "image": IMAGE, "label": CLASSES}


def columns(**changes: list[Any]) -> dict[str, list[Any]]:
    pictures = [image_cell(seed) for seed in range(len(LABELS))]
    return {"id": list(range(len(LABELS))), "image": pictures, "label": LABELS, **changes}


def pixels(seed: int) -> Any:
    return np.asarray(Image.open(io.BytesIO(encoded_picture(seed)))).transpose(2, 0, 1)


def test_pictures_and_labels_come_from_all_files(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", FEATURES, columns(), num_shards=2)
    pictures = load_pictures(str(folder), COLOUR)
    assert pictures.labels.tolist() == LABELS and pictures.labels.dtype == np.int64
    found = pictures.load(np.array([6, 0, 3, 4]))
    assert all(np.array_equal(picture, pixels(seed)) for picture, seed in zip(found, (6, 0, 3, 4), strict=True))
    saved = open_saved_dataset(folder)
    assert saved.class_names == ("ant", "bee", "cat")
    assert len(saved.pictures) == 7 and list(saved.pictures[4:6]) == [encoded_picture(4), encoded_picture(5)]


def test_picture_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "5.png").write_bytes(encoded_picture(5))
    cells = [image_cell(0)] * 6 + [{"bytes": None, "path": str(tmp_path / "5.png")}]
    pictures = load_pictures(str(save(tmp_path / "set", FEATURES, columns(image=cells))), COLOUR)
    assert np.array_equal(pictures.load(np.array([6]))[0], pixels(5))


def test_integers_are_classes_where_there_is_no_class_label(tmp_path: Path) -> None:
    content = columns(word=["x"] * 7, boxes=[[1, 2]] * 7, size=[{"a": 1}] * 7)
    del content["id"]
    features = {"image": IMAGE, "label": value("int64"), "word": value("string"), "boxes": [value("int64")]}
    saved = open_saved_dataset(save(tmp_path / "set", {**features, "size": {"a": value("int64")}}, content))
    assert saved.labels.tolist() == LABELS and saved.class_names == ()


def test_pictures_are_mapped_not_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    big = [{"bytes": bytes(1_000_000), "path": None}] * 7
    folder = save(tmp_path / "set", FEATURES, columns(image=big))
    before = pyarrow.total_allocated_bytes()
    saved = open_saved_dataset(folder)
    assert len(saved.pictures[3]) == 1_000_000
    assert pyarrow.total_allocated_bytes() - before < 100_000


@pytest.mark.parametrize(
    "features, kind, found",
    [
        ({"image": value("string")}, "Image", "none"),
        ({"id": IMAGE}, "Image", "id, image"),
        ({"label": value("string"), "id": value("float32")}, "ClassLabel or integer", "none"),
        ({"label": value("int64")}, "ClassLabel or integer", "id, label"),
        ({"id": CLASSES}, "ClassLabel or integer", "id, label"),
    ],
)
def test_columns_must_be_clear(tmp_path: Path, features: dict[str, Any], kind: str, found: str) -> None:
    folder = save(tmp_path / "set", {**FEATURES, **features}, columns())
    with pytest.raises(ValueError, match=f"set must have exactly one column of type {kind}, not {found}$"):
        open_saved_dataset(folder)


def test_missing_values_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "labels", FEATURES, columns(label=[0, None, 1, None, 2, 2, 1]))
    with pytest.raises(ValueError, match=r"column 'label' of .* must have a class for every picture, 2 have none"):
        open_saved_dataset(folder)
    folder = save(tmp_path / "pictures", FEATURES, columns(image=[image_cell(0), None, *[image_cell(1)] * 5]))
    with pytest.raises(ValueError, match=r"picture number 1 of .*pictures cannot be read"):
        load_pictures(str(folder), COLOUR).load(np.array([0, 1]))
    folder = save(tmp_path / "range", FEATURES, columns(label=[-1] * 7))
    with pytest.raises(ValueError, match=r"labels of .*range must be in 0\.\.2, not -1\.\.-1"):
        load_pictures(str(folder), COLOUR)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", FEATURES, columns(), num_shards=2)
    second = folder / "data-00001-of-00002.arrow"
    content = second.read_bytes()
    for broken in (content[: len(content) // 2], b"no arrow file", b""):
        second.write_bytes(broken)
        with pytest.raises(ValueError, match=r"data set .*set cannot be read: "):
            load_pictures(str(folder), COLOUR)
    start, end = (len(encoded_picture(seed)) for seed in (4, 5))
    place = content.index(np.array([0, start, start + end], np.int32).tobytes())  # offsets of its first two pictures
    second.write_bytes(content[: place + 4] + b"\xff\xff\xff\x3f" + content[place + 8 :])
    with pytest.raises(ValueError, match=r"data set .*set cannot be read: ArrowInvalid: .* out of bounds"):
        load_pictures(str(folder), COLOUR)
    second.unlink()
    with pytest.raises(ValueError, match=r"data set .*set cannot be read: FileNotFoundError: .*data-00001"):
        load_pictures(str(folder), COLOUR)
    for state in ("{", "{}", json.dumps({"_data_files": []}), json.dumps({"_data_files": [7]})):
        (folder / "state.json").write_text(state)
        with pytest.raises(ValueError, match=r"data set .*set cannot be read: "):
            load_pictures(str(folder), COLOUR)
    (folder / "state.json").unlink()
    assert not is_saved_dataset(folder)


def test_file_without_features_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    folder = save(tmp_path / "set", FEATURES, columns())
    table = pyarrow.table({"label": [1, 2]})
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        with pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    with pytest.raises(ValueError, match=r"data set .*set cannot be read: "):
        open_saved_dataset(folder)


def test_missing_library_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"needs pyarrow .*; install it by: pip install .*'\.\[huggingface\]'"):
        load_pictures(str(tmp_path), COLOUR)


@pytest.mark.filterwarnings("ignore")  # of another library's own
def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="to be compared with where it is installed")
    types = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES["names"])}
    content = {"image": [image_cell(seed) for seed in range(7)], "label": LABELS}
    whole = datasets.Dataset.from_dict(content, features=datasets.Features(types))
    whole.save_to_disk(tmp_path / "set", num_shards=3)
    datasets.DatasetDict(train=whole, test=whole.select([4, 2])).save_to_disk(tmp_path / "sets")
    for name, rows in (("set", range(7)), ("sets/train", range(7)), ("sets/test", (4, 2))):
        pictures = load_pictures(str(tmp_path / name), COLOUR)
        assert pictures.labels.tolist() == [LABELS[row] for row in rows]
        found = pictures.load(np.arange(len(rows)))
        assert all(np.array_equal(picture, pixels(row)) for picture, row in zip(found, rows, strict=True))
