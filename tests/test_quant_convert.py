"""Conversion of float networks.

Testpoints: tensor multipliers equal the scalar contract; weights, biases and multipliers of a layer restore the float
layer, also where code 0 is not 0; tiny, zero and bias-only channels; GELU and LayerNorm use their range; the folded
head mean, the score difference, the package bias and the CLS row; every tap of the golden model is close to float; the
integer network runs on the golden model and survives its file; refusals name the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.approx import GELU_MIN
from quant.bounds import norm_bound, prove_bounds
from quant.config import NetworkConfig
from quant.convert import calibrate, check_parameters, convert, run_float, to_arrays, to_tensors
from quant.fake_quant import Mode, Quantized
from quant.fixed import quantize_multiplier
from quant.layers import linear
from quant.network_file import load_network, save_network
from quant.observe import RATIOS
from quant.parameters import parameter_shapes
from quant.quantize import Quantizer, multipliers, quantize
from quant.reference import run
from quant.synthetic import random_config, random_network, random_parameters
from quant.torch_forward import run_batch
from quant.torch_layers import TorchLayers

CONFIG = NetworkConfig(8, 2, 3, 5, 24, 2, 3, 20, selectors=(1,), delta1=0.5, delta2=0.5)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(rng: np.random.Generator, config: NetworkConfig, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, config.in_chans, config.image_size, config.image_size), dtype=np.uint8)


def test_tensor_multipliers_equal_the_scalar_ones() -> None:
    rng = np.random.default_rng(0)
    real = np.concatenate([2 ** rng.uniform(-32, 14.9, 2000), [2.0**-32, 2.0**15, 1 - 2.0**-30, 0.5, 1.0]])
    mult, shift = multipliers(torch.from_numpy(real))
    expected = [quantize_multiplier(value) for value in real.tolist()]
    assert list(zip(mult.tolist(), shift.tolist(), strict=True)) == expected


@pytest.mark.parametrize("real", [0.0, -1.0, 2.0**16, 2.0**-34, math.nan])
def test_tensor_multipliers_refuse_what_the_scalar_ones_do(real: float) -> None:
    with pytest.raises(ValueError, match=r"^multiplier must be in 2\*\*-32\.\.2\*\*15, not "):
        multipliers(torch.tensor([1.0, real], dtype=torch.float64))


@pytest.mark.parametrize("in_zero", [0.0, 3.7])
def test_linear_layer_restores_the_float_layer(in_zero: float) -> None:
    rng = np.random.default_rng(1)
    weight = torch.from_numpy(rng.normal(0, 0.1, (6, 32)))
    weight[3] *= 1e-9  # lost in the bias, as it is in float
    weight[4] = 0
    bias = torch.from_numpy(rng.normal(0, 1, 6))
    weight[5], bias[5] = 0, 0
    in_scale, out_scale = 0.03, 2.0**-10
    layer = Quantizer({}, {}).linear(weight, bias, in_scale, out_scale, in_zero)
    assert torch.as_tensor(layer.weight_i8).abs().amax(dim=1).tolist() == [127, 127, 127, 0, 0, 0]
    codes = torch.from_numpy(rng.integers(-128, 128, (50, 32)))
    values = codes.to(torch.float64) * in_scale + in_zero
    exact = values @ weight.T + bias
    # Half a code for the output, half a weight code for every operand.
    weight_scale = weight.abs().amax(dim=1) / 127
    bound = 0.5 + ((values.abs().sum(dim=1)[:, None] + in_scale) * weight_scale / 2 + 1e-3) / out_scale
    assert ((linear(codes, layer, 16) - exact / out_scale).abs() <= bound + exact.abs() / out_scale * 2**-15).all()


def test_codes_of_gelu_use_their_range() -> None:
    config = replace(CONFIG, delta1=1.0)
    rng = np.random.default_rng(9)
    parameters = check_parameters(random_parameters(rng, config), config)
    pictures_u8 = pictures(rng, config, 8)
    taps: dict[str, list[Tensor]] = {}

    def record(name: str, tensor: Quantized, valid: Tensor) -> None:
        if name.endswith(".fc1"):
            taps.setdefault(name, []).append(tensor.value[valid])

    run_float(parameters, config, pictures_u8, MEAN, STD, None, record)
    scales = calibrate(parameters, config, pictures_u8, MEAN, STD)
    assert list(taps) == ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]
    for name, values in taps.items():
        largest = float(torch.cat(values).max())
        candidates = [(largest - GELU_MIN) * ratio / 255 for ratio in RATIOS]
        assert min(abs(scales[name] / scale - 1) for scale in candidates) < 1e-3


def test_norm_parameters_use_their_range_and_stay_inside_the_bound() -> None:
    for gamma, beta in (([1.0, -2.0], [0.0, 0.0]), ([1e-9, 0.0], [3.0, -1.0]), ([0.0, 0.0], [0.0, 0.0])):
        values = {"n.weight": torch.tensor(gamma, dtype=torch.float64), "n.bias": torch.tensor(beta)}
        layer = Quantizer(values, {"n": 0.02, "residual": 0.001}).norm("n", "n")
        assert 0 <= layer.shift <= 31 and norm_bound(to_arrays(layer)) < 1 << 31  # type: ignore[type-var]
        restored = torch.as_tensor(layer.gamma_i16).to(torch.float64) * (2.0**-layer.shift * 1024 * 0.02)
        assert torch.allclose(restored, values["n.weight"], rtol=1e-4, atol=1e-7)
        if gamma == [1.0, -2.0]:
            assert 1 << 14 <= torch.as_tensor(layer.gamma_i16).abs().max() < 1 << 15
        assert layer.eps == 4  # 1e-6 * (2 / 0.001)**2


def test_special_layers() -> None:
    rng = np.random.default_rng(2)
    parameters = check_parameters(random_parameters(rng, CONFIG), CONFIG)
    scales = calibrate(parameters, CONFIG, pictures(rng, CONFIG, 4), MEAN, STD)
    network = to_arrays(quantize(parameters, CONFIG, scales, MEAN, STD))
    selector = network.selectors[0]
    by_head = selector.head1.linear.weight_i8.reshape(1, 3, 8)
    assert (by_head == by_head[:, :, :1]).all()  # equal weights inside a head
    difference = parameters["selectors.0.token_score.weight"][:, 0] - parameters["selectors.0.token_score.weight"][:, 1]
    score_weight = selector.token_score.weight_i8[:, 0] * difference.abs().amax(dim=1, keepdim=True).numpy() / 127
    assert np.allclose(score_weight, difference.numpy(), atol=float(difference.abs().max()) / 127)
    for block, name in zip(network.blocks, ("blocks.0.attn", "blocks.1.attn"), strict=True):
        scale = scales[f"{name}.q"] * scales[f"{name}.k"] / math.sqrt(CONFIG.head_dim)
        bias = parameters["selectors.0.package_bias"] if name == "blocks.1.attn" else torch.zeros(CONFIG.num_heads)
        assert np.abs(block.package_bias_i32 * scale - bias.numpy()).max() <= scale
    # The CLS row of the embedding is cls + pos, whatever the bias of the patches.
    cls_row = run(network, pictures(rng, CONFIG, 1)[0]).taps["patch_embed"][0] * network.residual_scale
    expected = (parameters["cls_token"] + parameters["pos_embed"][:, :1]).numpy().ravel()
    assert np.abs(cls_row - expected).max() <= network.residual_scale
    for channel in range(3):
        restored = network.input_lut_i8[channel] * scales["input"]
        assert np.abs(restored - (np.arange(256) / 255 - MEAN[channel]) / STD[channel]).max() <= scales["input"]


def test_a_package_bias_stays_inside_the_accumulator() -> None:
    rng = np.random.default_rng(2)
    parameters = check_parameters(random_parameters(rng, CONFIG), CONFIG)
    scales = calibrate(parameters, CONFIG, pictures(rng, CONFIG, 4), MEAN, STD)
    parameters["selectors.0.package_bias"] = torch.tensor([1e9, -1e9, 0.0])
    block = quantize(parameters, CONFIG, scales, MEAN, STD).blocks[1]
    assert block.package_bias_i32.tolist() == [1 << 30, -(1 << 30), 0]


@pytest.mark.parametrize("seed", range(6))
def test_every_tap_is_close_to_float(seed: int) -> None:
    """Root mean square difference of every tap, integers against float, below 0.15 of its standard deviation.

    Logits: below 0.1. Nothing is pruned, so that both see the same tokens.
    """
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    parameters = check_parameters(random_parameters(rng, config), config)
    mean, std, keep_all = [0.5] * config.in_chans, [0.25] * config.in_chans, (0,) * len(config.selectors)
    batch = pictures(rng, config, 24)
    scales = calibrate(parameters, config, batch[:16], mean, std, keep_all)
    network = quantize(parameters, config, scales, mean, std, keep_all)
    values: dict[Mode, dict[str, torch.Tensor]] = {Mode.FLOAT: {}, Mode.TRAIN: {}}

    def forward(mode: Mode, **arguments: Any) -> torch.Tensor:
        def record(name: str, tensor: Quantized, valid: torch.Tensor) -> None:
            if not name.endswith((".exp", ".tokens")):
                rows = tensor.value.mT if name.endswith(".scores") else tensor.value
                values[mode][name] = rows.transpose(1, -2)[valid] if name.endswith(".scores") else rows[valid]

        with torch.no_grad():
            net = TorchLayers(config, mode, parameters, record=record, **arguments)
            return run_batch(net, torch.from_numpy(batch)).logits.value

    exact = forward(Mode.FLOAT, mean=tuple(mean), std=tuple(std), thresholds=keep_all)
    got = forward(Mode.TRAIN, network=network, scales=scales)
    assert values[Mode.FLOAT].keys() - {"input"} == values[Mode.TRAIN].keys()
    for name, value in values[Mode.TRAIN].items():
        error = (value - values[Mode.FLOAT][name]).square().mean().sqrt()
        assert error < 0.15 * values[Mode.FLOAT][name].std(), name
    assert (got - exact).square().mean().sqrt() < 0.1 * exact.std()


def test_converted_network_runs_and_survives_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    network = convert(random_parameters(rng, CONFIG), CONFIG, pictures(rng, CONFIG, 4), MEAN, STD, [30000])
    prove_bounds(network)
    assert network.selectors[0].threshold_u16 == 30000
    save_network(network, tmp_path / "network.safetensors")
    picture = pictures(rng, CONFIG, 1)[0]
    restored = load_network(tmp_path / "network.safetensors")
    assert (run(restored, picture).logits_i16 == run(network, picture).logits_i16).all()


def test_calibration_does_not_depend_on_the_batch_it_runs_in() -> None:
    rng = np.random.default_rng(4)
    parameters = check_parameters(random_parameters(rng, CONFIG), CONFIG)
    batch = pictures(rng, CONFIG, 20)
    forward = calibrate(parameters, CONFIG, batch, MEAN, STD)
    backward = calibrate(parameters, CONFIG, batch[::-1].copy(), MEAN, STD)
    assert forward.keys() == backward.keys()
    assert all(math.isclose(forward[name], backward[name], rel_tol=1e-4) for name in forward)


def test_arrays_and_tensors_are_inverse() -> None:
    network = random_network(np.random.default_rng(5), CONFIG)
    again = to_arrays(to_tensors(network))
    assert again.blocks[1].fc1.linear.shift_u8.dtype == np.uint8 and again.position_i16.dtype == np.int16
    assert (again.blocks[1].fc1.linear.weight_i8 == network.blocks[1].fc1.linear.weight_i8).all()
    assert again.config is network.config and again.blocks[0].score_mult == network.blocks[0].score_mult


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.bias": None}, "parameter head.bias is missing"),
        ({"extra": np.zeros(1)}, "parameter extra is not part of this topology"),
        ({"norm.weight": np.zeros(5)}, r"parameter norm.weight must have shape \(24,\), not \(5,\)"),
        ({"norm.weight": np.full(24, np.nan)}, "parameter norm.weight must be finite"),
    ],
)
def test_wrong_parameters_are_named(change: dict[str, Any], message: str) -> None:
    state = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(CONFIG).items()} | change
    with pytest.raises(ValueError, match=message):
        check_parameters({name: value for name, value in state.items() if value is not None}, CONFIG)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [([1, 2], r"thresholds must be one per selector, 1, not \(1, 2\)"), ([65536], "threshold must be in 0..65535")],
)
def test_wrong_thresholds_are_refused(thresholds: list[int], message: str) -> None:
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match=message):
        convert(random_parameters(rng, CONFIG), CONFIG, pictures(rng, CONFIG, 2), MEAN, STD, thresholds)


def test_a_block_that_cannot_be_quantized_is_named() -> None:
    rng = np.random.default_rng(8)
    state = random_parameters(rng, CONFIG)
    state["blocks.1.norm1.weight"] *= 1e-30  # a tensor that is zero for all pictures, but for its bias
    state["blocks.1.norm1.bias"] *= 1e-30
    state["blocks.1.attn.qkv.bias"][:48] = 0
    with pytest.raises(ValueError, match=r"^blocks.1: multiplier must be in "):
        convert(state, CONFIG, pictures(rng, CONFIG, 2), MEAN, STD)


def test_wrong_pictures_are_refused() -> None:
    rng = np.random.default_rng(9)
    state, batch = random_parameters(rng, CONFIG), pictures(rng, CONFIG, 2)
    for wrong in (batch.astype(np.float32), batch[:, :, 1:], batch[:, :1]):
        with pytest.raises(ValueError, match=r"^pictures must be uint8 batches of \(3, 8, 8\), not torch\."):
            convert(state, CONFIG, wrong, MEAN, STD)


def test_calibration_needs_pictures_and_a_channel_each() -> None:
    rng = np.random.default_rng(7)
    state = random_parameters(rng, replace(CONFIG, selectors=()))
    with pytest.raises(ValueError, match=r"^calibration needs at least one picture"):
        convert(state, replace(CONFIG, selectors=()), pictures(rng, CONFIG, 0), MEAN, STD)
    with pytest.raises(ValueError, match=r"^mean and std must have 3 entries, not 1 and 3"):
        convert(state, replace(CONFIG, selectors=()), pictures(rng, CONFIG, 1), MEAN[:1], STD)
