"""Network files.

Testpoints: a saved network comes back exactly with its topology and normalisation; writing is whole or not at all;
plain timm weights load from all three formats, with fresh selectors or without any; a dense network comes from either
kind, with its own normalisation and functions if it has them; missing, truncated, foreign and
misdescribed files, wrong shapes, missing, unknown and non-finite tensors are refused by name; pickles that run code are
not run.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import (
    FORMAT,
    load_any,
    load_dense,
    load_network,
    load_timm,
    save_network,
    weights_digest,
    write_tensors,
)
from model.config import NETWORKS
from model.npz import read_npz
from model.vit import Normalisation, VisionTransformer

TINY = NETWORKS["test_tiny"]
DENSE = replace(TINY, selectors=())
GREY = Normalisation((0.25,), (0.125,))


def network(seed: int = 0, selectors: bool = True) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(TINY if selectors else DENSE, GREY)


def assert_equal(found: VisionTransformer, expected: VisionTransformer) -> None:
    assert found.config == expected.config and found.normalisation == expected.normalisation
    states = found.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_saved_network_comes_back_exactly(tmp_path: Path) -> None:
    save_network(tmp_path / "deep" / "net.safetensors", network())
    assert_equal(load_network(tmp_path / "deep" / "net.safetensors"), network())
    assert os.listdir(tmp_path / "deep") == ["net.safetensors"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_network(path, network(0))

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("model.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_network(path, network(1))
    assert os.listdir(tmp_path) == ["net.safetensors"]
    assert_equal(load_network(path), network(0))


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth", "deit.pth"])
def test_plain_timm_weights_load(tmp_path: Path, kind: str) -> None:
    state = network(selectors=False).state_dict()
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        torch.save({"model": state} if kind == "deit.pth" else state, path)
    assert_equal(load_timm(path, DENSE, GREY), network(selectors=False))
    torch.manual_seed(5)
    with_selectors = load_timm(path, TINY, GREY)
    assert torch.equal(with_selectors.blocks[1].attn.qkv.weight, state["blocks.1.attn.qkv.weight"])
    assert len(with_selectors.selectors) == 2
    assert_equal(load_any(path, TINY, GREY), network(selectors=False))  # not selectors that nobody trained


def test_any_file_with_selectors_keeps_them(tmp_path: Path) -> None:
    save_network(tmp_path / "ours.safetensors", network())
    assert_equal(load_any(tmp_path / "ours.safetensors", NETWORKS["deit_tiny"], GREY), network())
    save_file(network().state_dict(), tmp_path / "plain.safetensors")
    assert_equal(load_any(tmp_path / "plain.safetensors", TINY, GREY), network())


def test_dense_networks_keep_what_they_were_trained_with(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    save_network(path, network(selectors=False))
    assert_equal(load_dense(path, TINY, Normalisation((0.1,), (0.9,))), network(selectors=False))
    save_file(network(selectors=False).state_dict(), tmp_path / "plain.safetensors")
    assert_equal(load_dense(tmp_path / "plain.safetensors", TINY, GREY), network(selectors=False))
    with pytest.raises(ValueError, match=r"weights .*ours\.safetensors must be a plain state dict with timm's names"):
        load_timm(path, TINY, GREY)
    with pytest.raises(ValueError, match=r"ours\.safetensors must have depth 9, not \d"):
        load_dense(path, replace(TINY, depth=9), GREY)
    save_network(path, network())
    with pytest.raises(ValueError, match=r"ours\.safetensors must have selectors \[\], not \[\d, \d\]"):
        load_dense(path, TINY, GREY)
    with pytest.raises(ValueError, match=r"must be a \.safetensors file of heatvit train, not .*net\.npz"):
        load_network(tmp_path / "net.npz")


def test_digest_is_of_names_shapes_and_values() -> None:
    first, second = network(), network()
    assert weights_digest(first) == weights_digest(second)
    second.head.bias.data[0] = second.head.bias.data[0].nextafter(torch.tensor(9.0))
    assert weights_digest(first) != weights_digest(second) != weights_digest(network(selectors=False))


def test_half_precision_weights_become_float(tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in network().state_dict().items()}, tmp_path / "half.pth")
    assert load_timm(tmp_path / "half.pth", TINY, GREY).head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "change, message",
    [
        ({"norm.weight": None}, r"net\.safetensors must hold tensor 'norm.weight' \(1 missing\)"),
        ({"extra": torch.zeros(1)}, r"net\.safetensors must not hold tensor 'extra' \(1 unknown\)"),
        ({"head.bias": torch.zeros(4)}, r"tensor 'head.bias' of .* must have shape \(3,\), not \(4,\)"),
        ({"head.bias": torch.tensor([0, float("nan"), 0])}, "tensor 'head.bias' of .* must hold finite floats"),
        ({"head.bias": torch.tensor([0, float("inf"), 0])}, "tensor 'head.bias' of .* must hold finite floats"),
        ({"head.bias": torch.zeros(3, dtype=torch.int32)}, "tensor 'head.bias' of .* must hold finite floats"),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    path = tmp_path / "net.safetensors"
    metadata = {"format": FORMAT, "config": TINY.to_dict(), "normalisation": {"mean": [0.5], "std": [0.5]}}
    changed = {**network().state_dict(), **change}
    write_tensors(path, {name: value for name, value in changed.items() if value is not None}, metadata)
    with pytest.raises(ValueError, match=message):
        load_network(path)


def test_missing_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(ValueError, match="checkpoint must be a file that exists, not"):
        load_network(path)
    save_network(path, network())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint .*net\.safetensors is corrupt"):
        load_network(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint .*net\.safetensors is corrupt"):
        load_network(path)
    save_file(network().state_dict(), path)
    with pytest.raises(ValueError, match=f"must be of format {FORMAT}, not None"):
        load_network(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": {"depth": 3}}, "describes no network: network description is incomplete"),
        ({"config": {**TINY.to_dict(), "depth": -1}}, "describes no network: depth must be a positive integer, not -1"),
        ({"config": 3}, "describes no network"),
        ({"normalisation": {"mean": [0.5]}}, "describes no network"),
        ({"normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3}}, "normalisation must have 1 channels, not 3"),
        ({"normalisation": [1]}, "describes no network"),
        ({"config": {**TINY.to_dict(), "num_classes": 5}}, r"tensor 'head\.\w+' of .* must have shape"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "net.safetensors"
    metadata = {"format": FORMAT, "config": TINY.to_dict(), "normalisation": {"mean": [0.5], "std": [0.5]}, **change}
    save_file(network().state_dict(), path, {"json": json.dumps(metadata)})
    with pytest.raises(ValueError, match=message):
        load_network(path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.npz", "weights.safetensors", "weights.bin"])
def test_corrupt_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02nonsense")
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_timm(tmp_path / name, TINY, GREY)


class Payload:
    """Pickles as a call of Path.touch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickles_that_run_code_are_refused_unrun(tmp_path: Path) -> None:
    torch.save({"head.bias": Payload(tmp_path / "owned")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth are corrupt"):
        load_timm(tmp_path / "weights.pth", TINY, GREY)
    np.savez(tmp_path / "weights.npz", x=np.array([Payload(tmp_path / "owned")], object))
    with pytest.raises(ValueError, match=r"archive .*weights\.npz cannot be read"):
        load_timm(tmp_path / "weights.npz", TINY, GREY)
    assert not (tmp_path / "owned").exists()


def test_weights_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="must hold tensors by name"):
        load_timm(tmp_path / "weights.pth", TINY, GREY)
    np.savez(tmp_path / "weights.npz", names=np.array(["a"]))
    with pytest.raises(ValueError, match=r"array 'names' of .* must hold floats, not <U1"):
        load_timm(tmp_path / "weights.npz", TINY, GREY)


def test_npz_reads_only_what_is_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.array([object()], object))
    assert {name: list(array) for name, array in read_npz(tmp_path / "a.npz", ("a", "c")).items()} == {"a": [0, 1, 2]}
    np.save(tmp_path / "b.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"archive .*b\.npy cannot be read"):
        read_npz(tmp_path / "b.npy")


def test_metadata_is_readable_by_any_safetensors_reader(tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", network())
    assert load_file(tmp_path / "net.safetensors").keys() == network().state_dict().keys()
