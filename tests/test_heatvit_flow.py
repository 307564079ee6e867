"""Pipeline pieces: whole-or-nothing files, steps that are reused, pictures by one word.

Testpoints: a failed write leaves the old file and no temporary; JSON refuses NaN; a step is reused when nothing
changed, and runs again when an input, an output or a source changed, when its stamp is damaged, and after a failure;
digits split by class without overlap; flat folders, class folders, packs; a file that is no picture is named;
progress without a terminal; relative work folders; thresholds by the share of patches that stay.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from heatvit import hardware, steps
from heatvit.files import file_digest, new_file, write_json, write_text
from heatvit.golden import evaluate_golden, with_keep_share, with_token_counts
from heatvit.pictures import load_split, open_pictures
from heatvit.progress import reporter
from heatvit.steps import run_step, source_digest
from hw.config import CONFIGS
from model.config import NETWORKS
from model.data import PixelPictures
from quant.synthetic import random_network

TINY, DIGITS = NETWORKS["test_tiny"], NETWORKS["digits"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), new_file(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_json_refuses_nan_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with new_file(tmp_path / "net.safetensors") as temporary:
        assert temporary.suffix == ".safetensors" and temporary.parent == tmp_path
    assert file_digest(tmp_path / "net.safetensors") == file_digest(tmp_path / "net.safetensors")


class CountingStep:
    """A step that writes its input to a file and counts its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0
        self.output = folder / "out.txt"

    def run(self, **inputs: Any) -> steps.StepResult:
        def action() -> dict[str, Any]:
            self.runs += 1
            if inputs.get("is_broken"):
                raise RuntimeError("broken")
            self.output.write_text(str(inputs))
            return {"echo": inputs["x"]}

        return run_step(self.folder / "stamps" / "step.json", inputs, [self.output], action)


def test_step_is_reused_until_something_changes(tmp_path: Path) -> None:
    step = CountingStep(tmp_path)
    first, second = step.run(x=1), step.run(x=1)
    assert (first.is_reused, second.is_reused, step.runs) == (False, True, 1)
    assert second.values == first.values == {"echo": 1} and second.seconds == first.seconds
    assert not step.run(x=2).is_reused
    step.output.write_text("touched by somebody")
    assert not step.run(x=2).is_reused
    step.output.unlink()
    assert not step.run(x=2).is_reused
    for damage in ("", "{", "[]", '{"key": 1}'):
        (tmp_path / "stamps" / "step.json").write_text(damage)
        assert not step.run(x=2).is_reused
    assert step.run(x=2).is_reused


def test_failed_step_is_not_reused(tmp_path: Path) -> None:
    step = CountingStep(tmp_path)
    step.run(x=1)
    with pytest.raises(RuntimeError, match="broken"):
        step.run(x=1, is_broken=True)
    assert not step.run(x=1).is_reused


def test_source_digest_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    for package in ("one", "two"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    before = source_digest(["one"])
    (tmp_path / "two" / "a.py").write_text("x = 2\n")
    assert source_digest(["one"]) == before != source_digest(["two"])
    (tmp_path / "one" / "ram.v").write_text("module ram; endmodule\n")
    assert (with_verilog := source_digest(["one"])) != before
    (tmp_path / "one" / "a.py").rename(tmp_path / "one" / "b.py")
    assert source_digest(["one"]) != with_verilog


def test_digits_split_is_stratified_and_disjoint() -> None:
    split = load_split("digits", DIGITS)
    assert len(split.train.labels) + len(split.test.labels) == 1797
    counts = np.bincount(split.test.labels, minlength=10)
    assert counts.min() >= 34 and counts.max() <= 37
    train, labelled = open_pictures("digits:train", DIGITS)
    test, _ = open_pictures("digits:test", DIGITS, count=5)
    assert labelled and len(train.labels) == len(split.train.labels) and len(test.labels) == 5
    np.testing.assert_array_equal(test.load(np.arange(5)), split.test.load(np.arange(5)))


def save_picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), value, np.uint8)).save(path)


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for value in (30, 10, 20):
        save_picture(tmp_path / f"{value}.png", value)
    (tmp_path / ".hidden").write_text("not a picture")
    pictures, labelled = open_pictures(str(tmp_path), TINY)
    assert not labelled
    assert pictures.load(np.arange(3))[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_class_folders_have_labels(tmp_path: Path) -> None:
    save_picture(tmp_path / "a" / "x.png", 1)
    save_picture(tmp_path / "b" / "y.png", 2)
    pictures, labelled = open_pictures(str(tmp_path), TINY, count=10)
    assert labelled and pictures.labels.tolist() == [0, 1]


def test_pack_is_read(tmp_path: Path) -> None:
    images = np.arange(2 * 256, dtype=np.uint8).reshape(2, 16, 16)
    np.savez(tmp_path / "pack.npz", images=images, labels=np.array([2, 0]))
    pictures, labelled = open_pictures(str(tmp_path / "pack.npz"), TINY)
    assert labelled and np.array_equal(pictures.load(np.arange(2))[:, 0], images)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no picture"):
        open_pictures(str(tmp_path), TINY)
    (tmp_path / "broken.png").write_text("no picture at all")
    pictures, _ = open_pictures(str(tmp_path), TINY)
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        pictures.load(np.arange(1))
    with pytest.raises(ValueError, match="pictures must be"):
        open_pictures(str(tmp_path / "absent"), TINY)


def test_a_log_shows_the_start_of_each_step_once() -> None:
    text = io.StringIO()
    with Progress(console=Console(file=text)) as progress:
        report = reporter(progress)
        for step, done in (("build [x]", 0), ("build [x]", 1), ("simulate", 0)):
            report(step, done, 2)
    lines = text.getvalue().splitlines()
    assert lines.count("build [x] ...") == 1 and lines.count("simulate ...") == 1


def test_simulation_gets_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def cosimulate(network: Any, pictures_u8: Any, config: Any, folder: Path, **options: Any) -> None:
        folders.append(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "cosimulate", cosimulate)
    monkeypatch.setattr(hardware, "summarise", lambda result: {})
    network = random_network(np.random.default_rng(1), TINY)
    hardware.simulate_pictures(network, np.zeros((1, 1, 16, 16), np.uint8), CONFIGS["tiny"], Path("work"), print, None)
    assert folders == [tmp_path.resolve() / "work"]


def test_keep_share_sets_how_many_patches_stay() -> None:
    network = random_network(np.random.default_rng(1), TINY)
    pixels_u8 = np.random.default_rng(2).integers(0, 256, (6, 1, 16, 16), dtype=np.uint8)
    pictures = PixelPictures(pixels_u8, np.zeros(6, np.int64))
    means = [
        evaluate_golden(with_keep_share(network, pictures, share), pictures).num_tokens[:, 0].mean()
        for share in (0.0, 0.5, 1.0)
    ]
    assert means[0] < means[1] < means[2] == TINY.num_tokens
    assert means[1] == pytest.approx(2 + TINY.num_patches / 2, abs=1.5)
    with pytest.raises(ValueError, match=r"share must be in 0\.\.1"):
        with_keep_share(network, pictures, 1.5)


def test_thresholds_by_token_counts() -> None:
    network = random_network(np.random.default_rng(7), TINY)
    pixels_u8 = np.random.default_rng(2).integers(0, 256, (6, 1, 16, 16), dtype=np.uint8)
    counts = [TINY.num_tokens - 4, 6]
    result = evaluate_golden(with_token_counts(network, pixels_u8, counts), PixelPictures(pixels_u8, np.zeros(6, int)))
    assert result.num_tokens.mean(axis=0) == pytest.approx(counts, abs=0.5)  # equal scores stay together
    for wrong in ([9], [6, 9], [9, 2], [TINY.num_tokens + 1, 9]):
        with pytest.raises(ValueError, match=r"token counts must be 2 falling numbers in 3\.\.17"):
            with_token_counts(network, pixels_u8, wrong)
