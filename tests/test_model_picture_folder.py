"""Folders of pictures.

Testpoints: ImageNet's layout, with classes in the order of their synsets, capital suffixes, grey and CMYK JPEGs and a
PNG that is called JPEG; hidden files and files of other kinds are skipped; a class without a picture and a folder of
data sets are refused; training and test folders are found by their names, and test pictures without labels refused.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.config import NETWORKS
from model.data import load_pictures
from model.picture_folder import picture_files, train_and_test

COLOUR = replace(NETWORKS["test_tiny"], in_chans=3)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three synsets with two pictures each to train with and one to test with, of one colour a synset."""
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for label, synset in enumerate(("n01440764", "n01443537", "n15075141")):
        for folder, count in (("train", 2), ("val", 1)):
            members = root / folder / synset
            members.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (20, 18), (100 * label,) * 3).save(members / f"{synset}_{index}.JPEG")
    return root


def test_imagenet_has_its_classes_in_order(imagenet: Path) -> None:
    pictures = load_pictures(str(imagenet / "train"), COLOUR)
    assert pictures.labels.tolist() == [0, 0, 1, 1, 2, 2] and pictures.labels.dtype == np.int64
    assert pictures.load(np.arange(6))[:, 0, 0, 0].tolist() == [0, 0, 100, 100, 200, 200]
    assert load_pictures(str(imagenet / "val"), COLOUR).labels.tolist() == [0, 1, 2]


def test_other_kinds_of_pictures_are_decoded(imagenet: Path) -> None:
    folder = imagenet / "train" / "n01440764"
    Image.new("L", (20, 18), 60).save(folder / "grey.JPEG")
    Image.new("CMYK", (20, 18), (0, 0, 0, 255 - 60)).save(folder / "ink.JPEG")
    Image.new("RGB", (20, 18), (60, 60, 60)).save(folder / "png.JPEG", "PNG")
    pictures = load_pictures(str(imagenet / "train"), COLOUR)
    assert len(pictures.labels) == 9
    found = [name.rsplit("/", 1)[1] for name in picture_files(folder)]
    assert found[2:] == ["n01440764_0.JPEG", "n01440764_1.JPEG", "png.JPEG"] and found[:2] == ["grey.JPEG", "ink.JPEG"]
    values = pictures.load(np.array([0, 1, 4]))[:, :, 8, 8]
    assert (abs(values.astype(int) - 60) <= 1).all()


def test_other_files_are_skipped(imagenet: Path) -> None:
    folder = imagenet / "train" / "n01440764"
    for name in ("notes.txt", "boxes.xml", ".DS_Store", "._n01440764_0.JPEG"):
        (folder / name).write_text("no picture")
    (folder / "folder.jpg").mkdir()
    (imagenet / "train" / "synsets.txt").write_text("no class")
    assert load_pictures(str(imagenet / "train"), COLOUR).labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_class_without_pictures_is_refused(imagenet: Path) -> None:
    (imagenet / "train" / "n02000000").mkdir()
    (imagenet / "train" / "n02000000" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"train must hold one sub-folder a class, but .*n02000000 holds no picture"):
        load_pictures(str(imagenet / "train"), COLOUR)


def test_folder_of_data_sets_is_refused(imagenet: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold one sub-folder a class, but .*CLS-LOC/train is a set of its own"):
        load_pictures(str(imagenet), COLOUR)


def test_training_and_test_folders_are_found(imagenet: Path) -> None:
    assert train_and_test(imagenet) == (imagenet / "train", imagenet / "val")
    (imagenet / "test").mkdir()
    (imagenet / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(b"")
    assert train_and_test(imagenet) == (imagenet / "train", imagenet / "val")
    (imagenet / "val").rename(imagenet / "validation")
    assert train_and_test(imagenet) == (imagenet / "train", imagenet / "validation")
    (imagenet / "validation").rename(imagenet / "unused")
    with pytest.raises(ValueError, match=r"test must hold one sub-folder a class, as .*train does"):
        train_and_test(imagenet)
    (imagenet / "test" / "ILSVRC2012_test_00000001.JPEG").unlink()
    (imagenet / "test").rmdir()
    assert train_and_test(imagenet) is None
    assert train_and_test(imagenet / "train") is None and train_and_test(imagenet / "missing") is None


def test_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name in ("train", "test", "bus"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "0.png")
    assert train_and_test(tmp_path) is None
    assert load_pictures(str(tmp_path), COLOUR).labels.tolist() == [0, 1, 2]
