"""What quantization costs, on the command line.

Testpoints: McNemar's p against the binomial sums written out; ranks with equal logits; the command compares a float
checkpoint with its golden on labelled pictures, with every key of its JSON, figures that follow from the two networks'
own logits, and the noise of every layer; timm's .npz, .pth and .safetensors give the same; a pruned checkpoint of ours
brings its topology; pictures without labels have no accuracy; quantize writes the very network that was measured, and
only checkpoints of exact functions are adapted; integers do not depend on the threads; bad devices, pictures that
calibration saw, and options that a NETWORK does not take are refused; on the real DeiT-Tiny, if its files are here, the
fast golden is the golden model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from safetensors.torch import save_file

from heatvit import cli
from heatvit.integers import quantize_after_training, reconstruct
from heatvit.paired import label_ranks, mcnemar_p
from heatvit.pictures import check_apart, load_all, open_pictures
from model import checkpoint
from model.approx import Kernels
from model.config import NETWORKS
from model.inference import infer
from model.train import threads
from model.vit import IMAGENET, Normalisation, VisionTransformer
from quant.config import NetworkConfig
from quant.fast_golden import FastGolden
from quant.network_file import load_network

SMALL = NetworkConfig(
    image_size=8,
    patch_size=4,
    in_chans=3,
    num_classes=7,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_hidden=24,
    selectors=(1,),
)
DENSE = replace(SMALL, selectors=())
DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save_pack(path: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    np.savez(path, images=rng.integers(0, 256, (count, 8, 8, 3), np.uint8), labels=rng.integers(0, 7, count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A topology, dense weights in three formats, and packs of pictures."""
    (tmp_path / "net.json").write_text(json.dumps(SMALL.to_dict()))
    torch.manual_seed(1)
    weights = VisionTransformer(DENSE, IMAGENET).state_dict()
    np.savez(tmp_path / "weights.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    torch.save(weights, tmp_path / "weights.pth")
    save_file(weights, tmp_path / "weights.safetensors")
    save_pack(tmp_path / "images.npz", 20, 1)
    save_pack(tmp_path / "calibrate.npz", 9, 2)
    return tmp_path


def evaluate(folder: Path, *extra: str, weights: str = "weights.npz") -> dict[str, Any]:
    arguments = ["evaluate", f"--weights={folder / weights}", f"--network={folder / 'net.json'}"]
    arguments += [f"--images={folder / 'images.npz'}", f"--calibrate={folder / 'calibrate.npz'}"]
    assert cli.main([*arguments, f"--json={folder / 'result.json'}", *extra]) == 0
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 5) == 1.0
    assert mcnemar_p(0, 4) == mcnemar_p(4, 0) == 2 / 2**4
    assert mcnemar_p(2, 9) == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    # Many pictures: the normal approximation with its correction for continuity.
    assert mcnemar_p(780, 820) == pytest.approx(math.erfc(39.0 / math.sqrt(2 * 1600)), rel=0.01)


def test_ranks_break_ties_as_argmax_does() -> None:
    logits = np.array([[3, 5, 5, 1], [3, 5, 5, 1], [7, 7, 7, 7], [0, 0, 0, 1]])
    labels = np.array([1, 2, 3, 3])
    assert label_ranks(logits, labels).tolist() == [0, 1, 3, 0]
    assert ((label_ranks(logits, labels) == 0) == (logits.argmax(axis=1) == labels)).all()


def test_command_compares_float_and_golden(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate(folder, "--snr")
    pictures, _ = open_pictures(str(folder / "images.npz"), DENSE)
    network = checkpoint.load_timm(folder / "weights.npz", DENSE, IMAGENET)
    logits = infer(network, torch.from_numpy(pictures.load(np.arange(20))), Kernels.FUSED).logits.numpy()
    ranks = label_ranks(logits, pictures.labels)
    assert result["n"] == 20 and result["calibration_pictures"] == 9
    assert (result["float"]["top1"], result["float"]["top5"]) == ((ranks < 1).mean(), (ranks < 5).mean())
    assert 0 <= result["golden"]["top1"] <= result["golden"]["top5"] <= 1
    assert 0.5 <= result["agreement"] <= 1
    paired = result["mcnemar"]
    assert round(20 * (result["float"]["top1"] - result["golden"]["top1"])) == (
        paired["float_only"] - paired["golden_only"]
    )
    assert paired["p"] == mcnemar_p(paired["float_only"], paired["golden_only"])
    speeds = [result[name]["images_per_s"] for name in ("float", "golden")]
    assert min(speeds) > 0 and result["speed_ratio"] == pytest.approx(speeds[1] / speeds[0])
    noise = {layer["name"]: layer["snr_db"] for layer in result["snr"]}
    assert {"patch_embed", "blocks.1.attn.scores", "blocks.1.mlp.fc2", "head"} <= set(noise)
    assert list(noise.values()) == sorted(noise.values())
    printed = capsys.readouterr().out
    assert result["snr"][0]["name"] in printed and "agreement" in printed


@pytest.mark.parametrize("weights", ["weights.pth", "weights.safetensors"])
def test_every_format_gives_the_same(folder: Path, weights: str) -> None:
    def figures(result: dict[str, Any]) -> list[Any]:
        return [result["agreement"], result["mcnemar"], result["float"]["top1"], result["golden"]["top5"]]

    assert figures(evaluate(folder, weights=weights)) == figures(evaluate(folder))


def test_a_checkpoint_of_ours_brings_its_topology(folder: Path) -> None:
    torch.manual_seed(2)
    checkpoint.save_network(folder / "pruned.safetensors", VisionTransformer(SMALL, IMAGENET))
    result = evaluate(folder, "--network=deit_tiny", "--count=6", "--snr", weights="pruned.safetensors")
    assert result["n"] == 6 and "selectors.0.keep_score" in {layer["name"] for layer in result["snr"]}


def test_unlabelled_pictures_have_no_accuracy(folder: Path) -> None:
    (folder / "mine").mkdir()
    Image.new("RGB", (40, 30), (128, 10, 200)).save(folder / "mine" / "x.png")
    result = evaluate(folder, f"--images={folder / 'mine'}")
    assert result["float"]["top1"] is None and result["agreement"] in (0.0, 1.0) and "mcnemar" not in result


def test_bad_devices_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("nonsense", "cuda:99"):
        arguments = ["evaluate", f"--weights={folder / 'weights.npz'}", f"--network={folder / 'net.json'}"]
        arguments += [f"--images={folder / 'images.npz'}", f"--calibrate={folder / 'calibrate.npz'}"]
        assert cli.main([*arguments, f"--device={device}"]) == 2
        assert "device must be one that torch has here" in capsys.readouterr().err


def test_quantize_writes_the_network_that_evaluate_measured(folder: Path) -> None:
    measured = evaluate(folder)
    arguments = ["quantize", str(folder / "weights.npz"), f"--network={folder / 'net.json'}"]
    assert cli.main([*arguments, f"--calibrate={folder / 'calibrate.npz'}", f"--out={folder / 'out.safetensors'}"]) == 0
    written = load_network(folder / "out.safetensors")
    network = checkpoint.load_timm(folder / "weights.npz", DENSE, IMAGENET)
    pictures = [open_pictures(str(folder / name), DENSE)[0] for name in ("images.npz", "calibrate.npz")]
    pictures_u8 = load_all(pictures[0])
    integers = reconstruct(network, pictures[1], Progress(disable=True)).integers
    expected = FastGolden(integers).run(torch.from_numpy(pictures_u8))
    logits_i16 = FastGolden(written).run(torch.from_numpy(pictures_u8)).logits_i16
    assert torch.equal(logits_i16, expected.logits_i16)
    exact = infer(network, torch.from_numpy(pictures_u8), Kernels.FUSED).logits.numpy()
    error = logits_i16.numpy() * written.logit_scale - exact
    centred = [values - values.mean(axis=1, keepdims=True) for values in (error, exact)]
    relative_error = np.sqrt(np.square(centred[0]).sum() / np.square(centred[1]).sum())
    assert measured["relative_error"] == pytest.approx(relative_error, rel=1e-3)
    assert measured["golden"]["top1"] == (logits_i16.argmax(dim=1).numpy() == pictures[0].labels).mean()


def test_only_networks_of_exact_functions_are_adapted() -> None:
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    exact = VisionTransformer(DENSE, IMAGENET, Kernels.FUSED)
    ours = VisionTransformer(DENSE, IMAGENET, Kernels.TRAINED)
    ours.load_state_dict(exact.state_dict())
    pictures_u8 = rng.integers(0, 256, (6, 3, 8, 8), np.uint8)
    for network, is_adapted in ((exact, True), (ours, False)):
        result = quantize_after_training(network, pictures_u8)
        changed = [
            name for name, value in network.state_dict().items() if not torch.equal(result.parameters[name], value)
        ]
        assert ("blocks.0.mlp.fc2.bias" in changed) == is_adapted == bool(changed)


def test_integers_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(3)
    config = replace(NETWORKS["digits"], selectors=())
    network = VisionTransformer(config, Normalisation((0.5,), (0.5,)), Kernels.FUSED)
    shape = (16, config.in_chans, config.image_size, config.image_size)
    pictures_u8 = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    parameters = []
    for count in (1, 2):
        with threads(count):
            parameters.append(quantize_after_training(network, pictures_u8).parameters)
    assert all(torch.equal(value, parameters[1][name]) for name, value in parameters[0].items())


def test_calibration_must_not_see_the_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack, inner = str(folder / "images.npz"), str(folder / "mine")
    same = f"{folder}/x/../images.npz"
    for images, calibrate in ((pack, pack), (pack, same), (inner, str(folder)), ("digits:test", "digits")):
        arguments = ["evaluate", f"--weights={folder / 'weights.npz'}", f"--network={folder / 'net.json'}"]
        assert cli.main([*arguments, f"--images={images}", f"--calibrate={calibrate}"]) == 2
        assert "calibration pictures must not be among those measured" in capsys.readouterr().err
    check_apart("digits:test", "digits:train")
    check_apart(str(folder / "images"), str(folder / "images2"))


def test_options_of_weights_are_refused_with_a_network(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra, named in (
        (["--snr"], "--snr"),
        (["--device=cpu"], "--device"),
        (["--calibrate=x", "--network=deit_tiny"], "--calibrate and --network"),
    ):
        assert cli.main(["evaluate", str(folder / "net.safetensors"), *extra]) == 2
        assert capsys.readouterr().err == f"heatvit: {named} must come with --weights, not with NETWORK\n"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real weights and pictures are not in {DATA}")
def test_real_network_agrees_with_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pictures: the command itself refuses if the fast golden differs from the golden model on the first."""
    monkeypatch.setattr("heatvit.integers.RECONSTRUCTION_PICTURES", 16)
    path = tmp_path / "result.json"
    arguments = ["evaluate", f"--weights={DATA / 'deit_tiny_fp32.npz'}", "--count=4", f"--json={path}"]
    arguments += [f"--images={DATA / 'imagenet_like_nips17_1000_s256_q95.npz'}"]
    arguments += [f"--calibrate={DATA / 'imagenet_sample1000_s256_q90.npz'}"]
    assert cli.main(arguments) == 0
    result = json.loads(path.read_text())
    assert result["agreement"] >= 0.75 and result["float"]["top5"] >= 0.75
    assert NETWORKS["deit_tiny"].num_classes == 1000
