"""Pictures.

Testpoints: the embedded digits have the network's shape and the right labels; folders and packs (pixels, JPEG) load
with labels; grey and colour conversion; a picture of the network's size is untouched, another is resized and cropped at
the centre; the split is stratified, seeded and disjoint; batches cover everything once; every kind of broken source is
refused by name; a pack that xz compressed is that pack, and a broken one is refused.
"""

import io
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.config import NETWORKS
from model.data import (
    EncodedPictures,
    PixelPictures,
    batches,
    fit_picture,
    load_pictures,
    split_pictures,
)

TINY = NETWORKS["test_tiny"]
COLOUR = replace(TINY, in_chans=3)
RNG = np.random.default_rng(0)


def picture(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = RNG.integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_digits_have_the_networks_shape() -> None:
    pictures = load_pictures("digits", NETWORKS["digits"])
    pixels = pictures.load(np.arange(1797))
    assert pixels.shape == (1797, 1, 28, 28) and pixels.dtype == np.uint8
    assert np.bincount(pictures.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert pixels.max() == 255 and pixels.min() == 0
    assert pixels[0, 0, 14, 14] < 40 < pixels[1, 0, 14, 14]  # a zero is hollow, a one is not


def test_picture_of_the_networks_size_is_untouched() -> None:
    image = picture(16, 16)
    expected = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(fit_picture(image, 16, 3), expected)


def test_other_pictures_are_resized_and_cropped_at_the_centre() -> None:
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:, 20:44] = 200
    fitted = fit_picture(Image.fromarray(pixels), 16, 1)
    assert fitted.shape == (1, 16, 16)
    # 32 -> 18 rows, 64 -> 36 columns, crop of 16 in the middle: columns 10..26 of 36, white from 11.25 to 24.75.
    assert (fitted[0, :, 3:13] > 195).all() and (fitted[0, :, 0] < 30).all() and (fitted[0, :, -1] < 30).all()


def test_very_thin_pictures_are_fitted() -> None:
    assert fit_picture(picture(1, 300), 16, 3).shape == (3, 16, 16)


def test_grey_and_colour_are_converted() -> None:
    assert fit_picture(picture(16, 16), 16, 1).shape == (1, 16, 16)
    assert fit_picture(picture(16, 16, 1), 16, 3).shape == (3, 16, 16)


def test_folder_has_one_class_per_sub_folder(tmp_path: Path) -> None:
    for name, count in (("cat", 2), ("ant", 1), (".cache", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            picture(16, 16).save(tmp_path / name / f"{index}.png")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    pictures = load_pictures(str(tmp_path), COLOUR)
    assert pictures.labels.tolist() == [0, 1, 1]  # ant before cat
    expected = np.asarray(Image.open(tmp_path / "cat" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(pictures.load(np.array([2]))[0], expected)


def test_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.png").write_text("no picture")
    pictures = load_pictures(str(tmp_path), COLOUR)
    with pytest.raises(ValueError, match=r"picture .*notes\.png cannot be read"):
        pictures.load(np.array([0]))


def test_truncated_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "half.png").write_bytes(encoded(picture(64, 64))[:2000])
    with pytest.raises(ValueError, match=r"picture .*half\.png cannot be read"):
        load_pictures(str(tmp_path), COLOUR).load(np.array([0]))


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 16, 16, 1), (4, 16, 16, 3)])
def test_pack_of_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images, labels = RNG.integers(0, 256, shape, np.uint8), np.array([0, 2, 1, 0], np.uint8)
    np.savez(tmp_path / "pack.npz", images=images, labels=labels)
    config = COLOUR if shape[-1] == 3 else TINY
    pictures = load_pictures(str(tmp_path / "pack.npz"), config)
    assert pictures.labels.tolist() == [0, 2, 1, 0] and pictures.labels.dtype == np.int64
    expected = images.transpose(0, 3, 1, 2) if len(shape) == 4 else images[:, None]
    assert np.array_equal(pictures.load(np.arange(4)), expected)


def jpeg_pack(path: Path, **changes: np.ndarray) -> str:
    files = [encoded(picture(20, 16), "JPEG") for _ in range(3)]
    arrays = {
        "bytes": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0] + [len(file) for file in files]),
        "labels": np.array([2, 0, 1], np.int16),
    }
    np.savez(path / "pack.npz", **(arrays | changes))
    return str(path / "pack.npz")


def test_pack_of_jpegs(tmp_path: Path) -> None:
    source = jpeg_pack(tmp_path)
    pictures = load_pictures(source, COLOUR)
    with np.load(source) as pack:
        start, end = pack["offsets"][1:3]
        expected = fit_picture(Image.open(io.BytesIO(pack["bytes"][start:end].tobytes())), 16, 3)
    assert pictures.labels.tolist() == [2, 0, 1]
    assert np.array_equal(pictures.load(np.array([1, 2]))[0], expected)


def test_broken_jpeg_of_a_pack_is_numbered(tmp_path: Path) -> None:
    source = jpeg_pack(tmp_path, bytes=np.zeros(10000, np.uint8))
    with pytest.raises(ValueError, match="picture number 2 of the pack cannot be read"):
        load_pictures(source, COLOUR).load(np.array([2]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offsets": np.array([0, 5])}, "offsets of pack .* must ascend within bytes"),
        ({"offsets": np.array([0, 9, 5, 10])}, "offsets of pack .* must ascend within bytes"),
        ({"offsets": np.array([0, 1, 2, 10**9])}, "offsets of pack .* must ascend within bytes"),
        ({"labels": np.array([0, 1, 3])}, r"labels of .* must be in 0\.\.2, not 0\.\.3"),
        ({"labels": np.array([-1, 1, 2])}, r"labels of .* must be in 0\.\.2, not -1\.\.2"),
        (
            {"images": np.zeros((3, 16, 16))},
            r"images of pack .* must be uint8 \(3, height, width\[, C\]\), not float64",
        ),
        ({"images": np.zeros((2, 16, 16), np.uint8)}, r"images of pack .* must be uint8 \(3,"),
        ({"images": np.zeros((3, 16, 16, 2), np.uint8)}, r"images of pack .* must be uint8 \(3,"),
    ],
)
def test_wrong_packs_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_pictures(jpeg_pack(tmp_path, **changes), COLOUR)


def test_foreign_and_corrupt_packs_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="must hold labels and either images or bytes and offsets"):
        load_pictures(str(tmp_path / "foreign.npz"), TINY)
    (tmp_path / "corrupt.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match=r"archive .*corrupt\.npz cannot be read"):
        load_pictures(str(tmp_path / "corrupt.npz"), TINY)


def test_pack_within_xz_is_that_pack(tmp_path: Path) -> None:
    plain = Path(jpeg_pack(tmp_path))
    packed = tmp_path / "pack.npz.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    expected, pictures = (load_pictures(str(path), COLOUR) for path in (plain, packed))
    assert np.array_equal(pictures.labels, expected.labels)
    assert np.array_equal(pictures.load(np.arange(3)), expected.load(np.arange(3)))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "no archive"])
def test_broken_xz_packs_are_refused(tmp_path: Path, damage: str) -> None:
    whole = lzma.compress(Path(jpeg_pack(tmp_path)).read_bytes())
    content = {
        "truncated": whole[: len(whole) // 2],
        "flipped": whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        "foreign": b"not xz at all",
        "empty": b"",
        "no archive": lzma.compress(b"not a zip"),
    }[damage]
    (tmp_path / "pack.npz.xz").write_bytes(content)
    with pytest.raises(ValueError, match=r"archive .*pack\.npz\.xz cannot be read"):
        load_pictures(str(tmp_path / "pack.npz.xz"), COLOUR)


def test_missing_and_empty_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r'pictures must be "digits", a folder or an \.npz or \.npz\.xz file that exists, not'
    ):
        load_pictures(str(tmp_path / "missing.npz"), TINY)
    with pytest.raises(ValueError, match=r"labels of .* must be in 0\.\.2, not no picture"):
        load_pictures(str(tmp_path), TINY)
    with pytest.raises(ValueError, match="in_chans must be 1 or 3 to load pictures, not 2"):
        load_pictures("digits", replace(TINY, in_chans=2))


def test_split_is_stratified_seeded_and_disjoint() -> None:
    pictures = load_pictures("digits", NETWORKS["digits"])
    train, test = split_pictures(pictures, 0.2, seed=0)
    assert len(train.labels) + len(test.labels) == 1797
    assert not set(train.indices) & set(test.indices)
    assert np.array_equal(np.bincount(test.labels), np.round(0.2 * np.bincount(pictures.labels)))
    assert np.array_equal(test.indices, split_pictures(pictures, 0.2, seed=0)[1].indices)
    assert not np.array_equal(test.indices, split_pictures(pictures, 0.2, seed=1)[1].indices)
    assert np.array_equal(test.load(np.array([3])), pictures.load(test.indices[3:4]))
    with pytest.raises(ValueError, match="test_ratio must be between 0 and 1, not 1"):
        split_pictures(pictures, 1, seed=0)


def test_batches_cover_everything_once_in_order() -> None:
    pictures = PixelPictures(np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1), np.arange(7))
    order = np.array([6, 0, 3, 5, 1, 2, 4])
    found = list(batches(pictures, 3, order))
    assert [len(labels) for _, labels in found] == [3, 3, 1]
    assert np.concatenate([labels for _, labels in found]).tolist() == order.tolist()
    assert np.concatenate([pixels.ravel() for pixels, _ in found]).tolist() == order.tolist()


def test_encoded_pictures_of_two_kinds_agree(tmp_path: Path) -> None:
    content = encoded(picture(40, 30))
    (tmp_path / "a.png").write_bytes(content)
    labels = np.zeros(1, np.int64)
    on_disk, in_memory = (EncodedPictures([source], labels, 16, 3) for source in (tmp_path / "a.png", content))
    assert np.array_equal(on_disk.load(np.array([0])), in_memory.load(np.array([0])))
