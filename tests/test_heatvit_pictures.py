"""Pictures by one word.

Testpoints: a folder with training and test folders is split by them, of class folders and of saved data sets; classes
that differ are refused, also in their order; without a split of its own a source is split at random; a side of a split
has a name, and sides of one split are apart; a saved data set has labels, a folder of pictures none, and other files in
it are skipped.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saved_datasets import CLASSES, IMAGE, image_cell, save

from heatvit.pictures import check_apart, load_split, open_pictures
from model.config import NETWORKS

TINY = NETWORKS["test_tiny"]


def class_folders(folder: Path, classes: str, count: int) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (16, 16), index).save(folder / name / f"{index}.png")


def test_folders_of_training_and_test_pictures_are_the_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", "abc", 4)
    class_folders(tmp_path / "val", "abc", 1)
    split = load_split(str(tmp_path), TINY)
    assert split.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and split.test.labels.tolist() == [0, 1, 2]
    split = load_split(str(tmp_path / "train"), TINY)  # none of its own: one in five
    assert len(split.train.labels) == 9 and len(split.test.labels) == 3


def test_a_side_of_a_split_has_a_name(tmp_path: Path) -> None:
    class_folders(tmp_path / "own" / "train", "abc", 4)
    class_folders(tmp_path / "own" / "val", "abc", 1)
    rng = np.random.default_rng(0)
    pack = tmp_path / "pack.npz"
    np.savez(pack, images=rng.integers(0, 256, (20, 16, 16), np.uint8), labels=np.arange(20) % 2)
    for source in (tmp_path / "own", pack):
        split = load_split(str(source), TINY)
        for part, pictures in (("train", split.train), ("test", split.test)):
            found, is_labelled = open_pictures(f"{source}:{part}", TINY)
            numbers = np.arange(len(pictures.labels))
            assert is_labelled and found.labels.tolist() == pictures.labels.tolist()
            assert np.array_equal(found.load(numbers), pictures.load(numbers))
    class_folders(tmp_path / "odd:test", "ab", 1)
    assert len(open_pictures(str(tmp_path / "odd:test"), TINY)[0].labels) == 2  # a folder of that name
    with pytest.raises(ValueError, match="nowhere"):
        open_pictures("nowhere:test", TINY)


def test_sides_of_one_split_are_apart(tmp_path: Path) -> None:
    own, pack = tmp_path / "own", tmp_path / "pack.npz"
    class_folders(own / "train", "ab", 1)
    class_folders(own / "val", "ab", 1)
    for images, calibrate in (
        (f"{pack}:test", f"{pack}:train"),
        (f"{own}:test", f"{own}/train"),
        (own / "val", f"{own}:train"),
    ):
        check_apart(str(images), str(calibrate))
    for images, calibrate in (
        (pack, f"{pack}:train"),
        (f"{pack}:test", f"{pack}:test"),
        (f"{own}:test", own / "val"),
        (own, f"{own}:train"),
    ):
        with pytest.raises(ValueError, match="must not be among those measured"):
            check_apart(str(images), str(calibrate))


def test_classes_that_differ_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", "abc", 1)
    class_folders(tmp_path / "val", "ac", 1)
    with pytest.raises(ValueError, match=r"val must have the classes of .*train; 'b' is in one only"):
        load_split(str(tmp_path), TINY)


def test_splits_of_a_saved_data_set(tmp_path: Path) -> None:
    features, cells = {"image": IMAGE, "label": CLASSES}, [image_cell(0)] * 3
    save(tmp_path / "train", features, {"image": cells, "label": [2, 0, 1]})
    save(tmp_path / "validation", features, {"image": cells[:1], "label": [1]})
    split = load_split(str(tmp_path), TINY)
    assert split.train.labels.tolist() == [2, 0, 1] and split.test.labels.tolist() == [1]
    pictures, is_labelled = open_pictures(str(tmp_path / "train"), TINY, 2)
    assert pictures.labels.tolist() == [2, 0] and is_labelled

    other = {"image": IMAGE, "label": {**CLASSES, "names": CLASSES["names"][::-1]}}
    save(tmp_path / "other" / "train", features, {"image": cells, "label": [2, 0, 1]})
    save(tmp_path / "other" / "test", other, {"image": cells, "label": [2, 0, 1]})
    with pytest.raises(ValueError, match=r"test must have the classes of .*train in the same order"):
        load_split(str(tmp_path / "other"), TINY)


def test_folder_of_pictures_has_no_labels(tmp_path: Path) -> None:
    for value in (9, 3):
        Image.new("L", (16, 16), value).save(tmp_path / f"{value}.JPG", "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    pictures, is_labelled = open_pictures(str(tmp_path), TINY)
    assert not is_labelled and pictures.load(np.arange(2))[:, 0, 0, 0].tolist() == [3, 9]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"folder .*empty holds no picture"):
        open_pictures(str(tmp_path / "empty"), TINY)
