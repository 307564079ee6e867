"""The network file.

Testpoints: round trip of random networks, equal arrays, types and results; a missing, extra, misshaped or mistyped
tensor, a value out of range and an unproven bound are refused by name in one line; so are foreign metadata, another
version, a broken header, a truncated and a foreign file; saving refuses what loading would.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from quant.config import NetworkConfig
from quant.network import IntegerNetwork
from quant.network_file import METADATA_KEY, load_network, save_network
from quant.reference import run
from quant.synthetic import random_config, random_network, random_picture

CONFIG = NetworkConfig(4, 2, 1, 3, 8, 2, 2, 12, selectors=(1,))


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    return random_network(np.random.default_rng(0), CONFIG)


@pytest.fixture
def parts(network: IntegerNetwork, tmp_path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and header of a saved network."""
    save_network(network, tmp_path / "whole.safetensors")
    with safe_open(tmp_path / "whole.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[METADATA_KEY])


def write(path: Path, tensors: dict[str, np.ndarray], header: Any) -> Path:
    save_file(tensors, path, metadata={METADATA_KEY: header if isinstance(header, str) else json.dumps(header)})
    return path


def refuse(path: Path, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_network(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(8))
def test_round_trip(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    network, picture = random_network(rng, config), random_picture(rng, config)
    save_network(network, tmp_path / "network.safetensors")
    restored = load_network(tmp_path / "network.safetensors")
    assert restored.config == config
    before, after = run(network, picture), run(restored, picture)
    assert before.taps.keys() == after.taps.keys()
    for name, value in before.taps.items():
        assert value.dtype == after.taps[name].dtype and (value == after.taps[name]).all(), name
    save_network(restored, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "network.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("head.weight_i8", None, "tensor head.weight_i8 is missing"),
        ("extra", np.zeros(1, np.int8), "tensor extra is not part of this topology"),
        ("norm.gamma_i16", np.zeros(7, np.int16), "tensor norm.gamma_i16 must be int16 (8,), not int16 (7,)"),
        ("norm.beta_i32", np.zeros(8, np.float32), "tensor norm.beta_i32 must be int32 (8,), not float32 (8,)"),
        ("head.weight_i8", np.full((3, 8), -128, np.int8), "tensor head.weight_i8 must be in -127..127, not -128"),
        ("head.shift_u8", np.full(3, 48, np.uint8), "tensor head.shift_u8 must be in 0..47, not 48"),
        ("head.bias_i32", np.full(3, -(1 << 31), np.int32), "accumulator of head must stay below"),
    ],
)
def test_wrong_tensors_are_named(
    parts: tuple[Any, Any], tmp_path: Path, name: str, change: np.ndarray | None, message: str
) -> None:
    tensors, header = parts
    tensors.pop(name, None)
    if change is not None:
        tensors[name] = change
    refuse(write(tmp_path / "bad.safetensors", tensors, header), message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.0.score_mult", 65536, "scalar blocks.0.score_mult must be an integer in 0..65535, not 65536"),
        ("blocks.1.score_shift", True, "scalar blocks.1.score_shift must be an integer in 0..47, not True"),
        ("blocks.1.context_mult", 3, "scalar blocks.1.context_mult must be an integer in 32768..65535, not 3"),
        ("norm.eps", 0, "scalar norm.eps must be an integer in 1..4294967295, not 0"),
        ("blocks.1.fc1.out_offset", 1, "scalar blocks.1.fc1.out_offset must be an integer in -32768..0, not 1"),
        ("norm.shift", 32, "scalar norm.shift must be an integer in 0..31, not 32"),
        ("selectors.0.threshold_u16", 0.5, "scalar selectors.0.threshold_u16 must be an integer in 0..65535, not 0.5"),
        ("selectors.0.pool_shift", 32, "scalar selectors.0.pool_shift must be an integer in 0..31, not 32"),
        ("logit_scale", float("inf"), "scalar logit_scale must be a positive finite float, not inf"),
        ("residual_scale", "1", "scalar residual_scale must be a positive finite float, not '1'"),
        ("surprise", 1, "scalar surprise is not part of this topology"),
    ],
)
def test_wrong_scalars_are_named(parts: tuple[Any, Any], tmp_path: Path, name: str, value: Any, message: str) -> None:
    tensors, header = parts
    header["scalars"][name] = value
    refuse(write(tmp_path / "bad.safetensors", tensors, header), message)


def test_a_missing_scalar_is_named(parts: tuple[Any, Any], tmp_path: Path) -> None:
    tensors, header = parts
    del header["scalars"]["norm.eps"]
    refuse(write(tmp_path / "bad.safetensors", tensors, header), "scalar norm.eps is missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("[]", "format version must be 3, not None"),
        ({"version": 1}, "format version must be 3, not 1"),
        ({"config": 3}, "must hold the objects 'config' and 'scalars'"),
        ({"config": {"depth": 1}}, "network description is incomplete"),
        ({"config": {**CONFIG.to_dict(), "depth": 1 << 40}}, "depth must not exceed the number of tensors"),
        ({"config": {**CONFIG.to_dict(), "num_classes": 4}}, "tensor head.weight_i8 must be int8 (4, 8)"),
        ({"config": {**CONFIG.to_dict(), "selectors": []}}, "is not part of this topology"),
        ({"config": {**CONFIG.to_dict(), "selectors": ["a"]}}, "network description is incomplete"),
    ],
)
def test_wrong_headers_are_refused(parts: tuple[Any, Any], tmp_path: Path, change: Any, message: str) -> None:
    tensors, header = parts
    header = change if isinstance(change, str) else {**header, **change}
    refuse(write(tmp_path / "bad.safetensors", tensors, header), message)


def test_foreign_and_damaged_files_are_refused(network: IntegerNetwork, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, foreign)
    refuse(foreign, "not an integer network")
    text = tmp_path / "text.safetensors"
    text.write_text("hello, this is no tensor file")
    refuse(text, "is not a readable safetensors file")
    whole = tmp_path / "whole.safetensors"
    save_network(network, whole)
    data = whole.read_bytes()
    for length in (0, 7, 100, len(data) // 2, len(data) - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(data[:length])
        refuse(cut, "is not a readable safetensors file")


def test_saving_refuses_what_loading_would(network: IntegerNetwork, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    with pytest.raises(ValueError, match=r"^scalar residual_scale must be a positive finite float, not 0.0"):
        save_network(replace(network, residual_scale=0.0), path)
    with pytest.raises(ValueError, match=r"^tensor position_i16 must be int16"):
        save_network(replace(network, position_i16=network.position_i16.astype(np.int32)), path)
    head = replace(network.head, bias_i32=np.full(3, (1 << 31) - 1, np.int32))
    with pytest.raises(ValueError, match=r"^accumulator of head must stay below"):
        save_network(replace(network, head=head), path)
    assert not path.exists()
