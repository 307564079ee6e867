"""The delta study.

Testpoints: logits compared by hand; the logits measured are those of the float network and of the golden model; gains
of GELU against differences of the function itself; delta2 alone cannot change a code of the integer network; the
command trains every setting and seed, differing in nothing but the deltas, prints tables and writes JSON whose
summary follows from its runs; a second call repeats nothing; calibration sees every class of a sorted pack; another
training in the folder, selectors, too few seeds or settings are refused; --compile compiles every training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heatvit import cli, delta_study
from heatvit.delta_measure import compare_logits, gelu_gains, measure
from model.checkpoint import load_network
from model.data import PixelPictures
from model.inference import infer
from model.recipe import RECIPES, Stage
from model.vit import Normalisation, VisionTransformer
from quant.config import NetworkConfig
from quant.convert import convert
from quant.fake_quant import polynomial_gelu
from quant.reference import run

TINY = NetworkConfig(
    image_size=8, patch_size=4, in_chans=3, num_classes=3, embed_dim=16, depth=2, num_heads=2, mlp_hidden=32
)
RECIPE = replace(RECIPES["delta_study"], dense=Stage(2, 2e-3), batch_size=8, max_shift=1)
NORMALISATION = Normalisation((0.5,) * 3, (0.25,) * 3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_network(**changes: float) -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(replace(TINY, **changes), NORMALISATION)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def pixels(count: int, seed: int) -> PixelPictures:
    """Noise whose brightness is its class, sorted by class as published packs are."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, 3, count))
    pictures = rng.integers(0, 60, (count, 3, 8, 8)) + 90 * labels[:, None, None, None]
    return PixelPictures(pictures.astype(np.uint8), labels)


def test_logits_are_compared_within_pictures() -> None:
    floats = np.array([[3.0, 1.0], [1.0, 3.0], [3.0, 1.0], [1.0, 3.0]])
    golden = floats + 5.0  # what all classes share changes no decision
    golden[3] = [8.0, 6.0]  # 2 and -2 off the middle where the float logits are -1 and 1
    compared = compare_logits(floats, golden, np.array([0, 1, 1, 1]))
    assert compared == pytest.approx(
        {
            "float_top1": 0.75,
            "golden_top1": 0.5,
            "top1_loss": 0.25,
            "agreement": 0.75,
            "logit_rms": 1.0,
            "error_rms": 1.0,
            "relative_error": 1.0,
        }
    )


@pytest.mark.parametrize("deltas", [(1.0, 1.0), (0.5, 0.5)])
def test_measured_logits_are_those_of_float_and_golden(deltas: tuple[float, float]) -> None:
    network, pictures = tiny_network(delta1=deltas[0], delta2=deltas[1]), pixels(7, 1)
    calibration_u8 = pixels(12, 2).pictures_u8
    measured = measure(network, calibration_u8, pictures, lambda step, done, total: None)
    integers = convert(network.state_dict(), network.config, calibration_u8, (0.5,) * 3, (0.25,) * 3)
    golden = np.stack([run(integers, picture_u8).logits_i16 for picture_u8 in pictures.pictures_u8]).astype(float)
    floats = infer(network, torch.from_numpy(pictures.pictures_u8)).logits.numpy()
    # The value of one code is what makes codes and float logits agree; it is not asked for from the code under test.
    golden *= (golden * floats).sum() / np.square(golden).sum()
    expected = compare_logits(floats, golden, pictures.labels)
    for name in ("float_top1", "golden_top1", "agreement", "logit_rms"):
        assert measured[name] == pytest.approx(expected[name], rel=1e-5)
    assert 0 < expected["relative_error"] <= 1.2 * measured["relative_error"] < 0.2
    assert measured["layers"]["GELU"]["error"] > measured["layers"]["GELU"]["rounding"] > 0


@pytest.mark.parametrize("delta1", [1.0, 0.5])
def test_gains_are_what_small_errors_do(delta1: float) -> None:
    network, pictures_u8 = tiny_network(delta1=delta1), pixels(6, 3).pictures_u8
    measured = gelu_gains(network, pictures_u8)
    inputs: list[torch.Tensor] = []
    for block in network.blocks:
        block.mlp.fc1.register_forward_hook(lambda module, arguments, result: inputs.append(result.double()))
    with torch.no_grad():
        network(torch.from_numpy(pictures_u8))
    gains, relative_gains = [], []
    for x in inputs:
        noise = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        result = polynomial_gelu(x, delta1)
        error = (polynomial_gelu(x + noise, delta1) - result).norm()
        gains.append(float(error / noise.norm()))
        relative_gains.append(float(error / result.norm() / (noise.norm() / x.norm())))
    assert measured["gelu_gain"] == pytest.approx(np.mean(gains), rel=0.05)
    assert measured["gelu_relative_gain"] == pytest.approx(np.mean(relative_gains), rel=0.05)
    steepest = max(float((polynomial_gelu(x + 1e-6, delta1) - polynomial_gelu(x, delta1)).abs().max()) for x in inputs)
    assert measured["gelu_peak_gain"] == pytest.approx(steepest / 1e-6, rel=1e-3)


def test_delta2_alone_changes_no_code() -> None:
    """Half of the context times twice the weights is the same network, and has the same integers in every tap."""
    calibration_u8, picture_u8 = pixels(12, 2).pictures_u8, pixels(3, 4).pictures_u8[1]
    state = tiny_network().state_dict()
    doubled = {name: 2 * value if name.endswith("attn.proj.weight") else value for name, value in state.items()}
    whole, halved = (
        run(convert(parameters, replace(TINY, delta2=delta2), calibration_u8, (0.5,) * 3, (0.25,) * 3), picture_u8)
        for parameters, delta2 in ((state, 1.0), (doubled, 0.5))
    )
    assert set(whole.taps) == set(halved.taps)
    assert all(np.array_equal(whole.taps[name], halved.taps[name]) for name in whole.taps)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, a recipe and a topology, as files."""
    for name, count, seed in (("train", 30, 0), ("test", 12, 1)):
        pictures = pixels(count, seed)
        np.savez(tmp_path / f"{name}.npz", images=pictures.pictures_u8.transpose(0, 2, 3, 1), labels=pictures.labels)
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE.to_dict()))
    (tmp_path / "network.json").write_text(json.dumps(TINY.to_dict()))
    return tmp_path


def study(folder: Path, *more: str) -> int:
    arguments = [f"--{name}={folder / file}" for name, file in (("train", "train.npz"), ("test", "test.npz"))]
    arguments += [f"--recipe={folder / 'recipe.json'}", f"--network={folder / 'network.json'}"]
    return cli.main(["study", "delta", *arguments, f"--out={folder / 'out'}", "--seeds=3,5", *more])


def test_command_compares_settings_seed_by_seed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(folder, f"--json={folder / 'study.json'}", f"--svg={folder / 'study.svg'}") == 0
    result = json.loads((folder / "study.json").read_text())
    assert [(run["delta1"], run["delta2"], run["seed"]) for run in result["runs"]] == [
        (*deltas, seed) for seed in (3, 5) for deltas in delta_study.SETTINGS
    ]
    assert result["num_pictures"] == {"train": 30, "test": 12} and not result["is_compiled"]
    first, second, _ = result["settings"]
    errors = {
        deltas: [run["relative_error"] for run in result["runs"] if (run["delta1"], run["delta2"]) == deltas]
        for deltas in delta_study.SETTINGS
    }
    assert first["relative_error"]["mean"] == pytest.approx(np.mean(errors[1.0, 1.0]))
    ratios = np.divide(errors[0.5, 1.0], errors[1.0, 1.0])
    compared = second["against_first"]
    assert compared["relative_error"]["per_seed"] == pytest.approx(ratios.tolist())
    assert compared["error_rms"]["mean"] == pytest.approx(
        compared["relative_error"]["mean"] * compared["logit_rms"]["mean"]
    )
    assert "against_first" not in first
    printed = capsys.readouterr().out
    assert "0.5, 0.5" in printed and "seed by seed" in printed and "GELU" in printed
    assert (folder / "study.svg").read_text().startswith("<svg")


def test_other_settings_can_be_chosen(folder: Path) -> None:
    more = ("--deltas=0.5,0.25", "--deltas=1,1", f"--json={folder / 'study.json'}")
    assert study(folder, *more) == 0
    settings = json.loads((folder / "study.json").read_text())["settings"]
    assert [(setting["delta1"], setting["delta2"]) for setting in settings] == [(0.5, 0.25), (1.0, 1.0)]
    assert ["against_first" in setting for setting in settings] == [False, True]
    assert len(list((folder / "out").iterdir())) == 4


def test_trainings_differ_in_their_deltas_only(folder: Path) -> None:
    assert study(folder) == 0
    folders = sorted(path for path in (folder / "out").iterdir())
    assert len(folders) == 6
    for path in folders:
        network = load_network(path / "float.safetensors")
        record = json.loads((path / "training.json").read_text())
        assert f"delta1_{network.config.delta1:g}_delta2_{network.config.delta2:g}" in path.name
        assert path.name.endswith(f"seed_{record['description']['recipe']['seed']}")
        assert replace(network.config, delta1=1.0, delta2=1.0) == TINY
        # Random order: of a sorted pack the first pictures would be dark, and measured as the mean of all.
        assert 0.3 < network.normalisation.mean[0] < 0.6


def test_second_call_repeats_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert study(folder, f"--json={folder / 'first.json'}") == 0
    monkeypatch.delattr("model.train._train_epoch")
    monkeypatch.delattr(delta_study, "measure")
    assert study(folder, f"--json={folder / 'second.json'}") == 0
    assert (folder / "first.json").read_text() == (folder / "second.json").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--seeds=1", "seeds must be 2 to 10 different numbers, not [1]"),
        ("--seeds=1,1", "seeds must be 2 to 10 different numbers, not [1, 1]"),
        ("--deltas=1,1", "settings must be 2 or more different pairs of deltas, not [(1.0, 1.0)]"),
        ("--deltas=1", "--deltas must be two numbers with a comma between them, not '1'"),
        ("--deltas=1,x", "--deltas must be two numbers with a comma between them, not '1,x'"),
        ("--network=digits", "network of a delta study must have no selectors, not [1, 2]"),
        ("--test=missing.npz", "an .npz or .npz.xz file that exists, not 'missing.npz'"),
    ],
)
def test_wrong_studies_are_refused(folder: Path, more: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(folder, more) == 2
    assert message in capsys.readouterr().err


def test_compiled_trainings_are_compiled_and_no_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(VisionTransformer, "compile", lambda network: compiled.append("network"))
    monkeypatch.setattr(torch.compiler, "reset", lambda: compiled.append("reset"))
    assert study(folder, "--compile", f"--out={folder / 'compiled'}") == 0
    assert compiled == ["reset", "network"] * 6
    assert study(folder) == 0 and len(compiled) == 12


def test_folder_of_another_study_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(folder) == 0
    assert study(folder, f"--train={folder / 'test.npz'}") == 2
    assert "it differs in pictures_sha256" in capsys.readouterr().err
