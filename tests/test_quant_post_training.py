"""Post-training quantization of checkpoints that were trained with the exact GELU.

Testpoints: equalizing changes no logit, lets all channels of LayerNorm reach equally far, centres v, and survives dead
channels; the GELU fit gives each unit the scale and shift that vary least, by the golden model's own functions, takes
the mean back in fc2, and looks at CLS alone in the last block; contexts of the integer softmax get the line that brings
each channel closest to the exact one, and nothing else changes; all of it together is closer to the exact network than
plain calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quant.approx import gelu, gelu_constants, gelu_offset, softmax_rows
from quant.config import NetworkConfig
from quant.context_fit import ROW_STRIDE, fit_contexts
from quant.convert import calibrate, check_parameters, export, run_float
from quant.equalize import equalize
from quant.fake_quant import Format, Quantized
from quant.fast_golden import FastGolden
from quant.fixed import quantize_multiplier, requantize
from quant.gelu_fit import INPUT_SCALES, INPUT_SHIFTS, RANGES, fit_gelu
from quant.layers import merge_heads, split_heads
from quant.post_training import adapt
from quant.synthetic import random_parameters

PRUNED = NetworkConfig(8, 2, 3, 5, 24, 2, 3, 20, selectors=(1,))
DENSE = replace(PRUNED, selectors=())
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(config: NetworkConfig, seed: int = 0) -> tuple[dict[str, Tensor], np.ndarray]:
    """Return parameters whose channels reach unequally far, and pictures."""
    rng = np.random.default_rng(seed)
    parameters = check_parameters(random_parameters(rng, config), config)
    for number in range(config.depth):
        for norm in ("norm1", "norm2"):
            spread = torch.from_numpy(np.exp2(rng.uniform(-3, 3, config.embed_dim)).astype(np.float32))
            parameters[f"blocks.{number}.{norm}.weight"] *= spread
    return parameters, rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)


def taps_of(parameters: dict[str, Tensor], config: NetworkConfig, pictures_u8: np.ndarray) -> dict[str, Tensor]:
    """Return the float taps of all pictures; nothing is pruned, and the slot of the package is cut away."""
    taps: dict[str, list[Tensor]] = {}

    def record(name: str, tensor: Quantized, valid: Tensor) -> None:
        value = tensor.value if name == "input" or tensor.value.ndim != 3 else tensor.value[:, : config.num_tokens]
        taps.setdefault(name, []).append(value)

    run_float(parameters, config, pictures_u8, MEAN, STD, (0,) * len(config.selectors), record)
    return {name: torch.cat(parts) for name, parts in taps.items()}


@pytest.mark.parametrize("config", [PRUNED, replace(DENSE, delta2=0.5)])
def test_equalizing_changes_ranges_and_no_result(config: NetworkConfig) -> None:
    parameters, pictures_u8 = network(config)
    parameters["blocks.0.norm1.weight"][3] = 0.0  # a dead channel
    parameters["blocks.0.norm1.bias"][3] = 0.0
    thresholds = (0,) * len(config.selectors)
    equalized = equalize(parameters, config, pictures_u8, MEAN, STD, thresholds)
    before, after = (taps_of(values, config, pictures_u8) for values in (parameters, equalized))
    for name in ("blocks.0.attn.q", "blocks.0.attn.proj", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2", "head"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)
    for name in ("blocks.1.norm1", "blocks.0.norm2"):
        old, new = (taps[name].abs().amax(dim=(0, 1)) for taps in (before, after))
        assert old.max() > 4 * old.min() and new.max() < 1.001 * new.min(), name
    assert not torch.allclose(after["blocks.1.attn.v"], before["blocks.1.attn.v"], atol=1e-3)
    for name in ("blocks.0.attn.v", "blocks.1.attn.v"):
        assert after[name].mean(dim=(0, 1)).abs().max() < 1e-4 * after[name].abs().max()
    reach, weight = after["blocks.1.attn.context"].abs().amax(dim=(0, 1)), equalized["blocks.1.attn.proj.weight"]
    torch.testing.assert_close(reach / reach.max(), (w := weight.abs().amax(dim=0)) / w.max(), rtol=1e-3, atol=1e-4)


def test_fit_takes_the_best_pair_and_its_mean() -> None:
    parameters, pictures_u8 = network(DENSE)
    scales = calibrate(parameters, DENSE, pictures_u8, MEAN, STD)
    fitted, fitted_scales = fit_gelu(parameters, DENSE, scales, pictures_u8, MEAN, STD)
    taps = taps_of(parameters, DENSE, pictures_u8)
    for block, rows in (("blocks.0", slice(None)), ("blocks.1", slice(1))):
        fc1, fc2 = f"{block}.mlp.fc1", f"{block}.mlp.fc2"
        normed = taps[f"{block}.norm2"][:, rows].flatten(0, 1)
        x = functional.linear(normed, parameters[f"{fc1}.weight"], parameters[f"{fc1}.bias"])
        out_weight = parameters[f"{fc2}.weight"]

        def error(scale: float, shift: float, out_scale: float, x: Tensor = x) -> Tensor:
            x_i16 = ((x * scale + shift) * 1024).round().to(torch.int64)
            activated = gelu(x_i16, *gelu_constants(1.0), gelu_offset(out_scale, 1.0))
            codes = requantize(activated, *quantize_multiplier(2.0**-26 / out_scale), 8)
            return Format.gelu(out_scale, 1.0).value(codes) / scale - functional.gelu(x)

        importance = out_weight.square().sum(dim=0)
        lost = {r: float((error(1, 0, scales[fc1] * r).var(0, correction=0) * importance).sum()) for r in RANGES}
        ratio = fitted_scales[fc1] / scales[fc1]
        assert lost[min(RANGES, key=lambda candidate: abs(candidate - ratio))] <= min(lost.values()) * 1.0001
        grid = [(scale, shift) for scale in INPUT_SCALES for shift in INPUT_SHIFTS]
        errors = torch.stack([error(scale, shift, fitted_scales[fc1]) for scale, shift in grid])
        variances = errors.var(dim=1, correction=0)  # (pairs, hidden)
        scale = (fitted[f"{fc1}.weight"] / parameters[f"{fc1}.weight"]).mean(dim=1)
        shift = fitted[f"{fc1}.bias"] - parameters[f"{fc1}.bias"] * scale
        chosen = [
            min(range(len(grid)), key=lambda g: abs(grid[g][0] - float(a)) + abs(grid[g][1] - float(b)))
            for a, b in zip(scale, shift, strict=True)
        ]
        units = torch.arange(len(chosen))
        assert (variances[chosen, units] <= variances.amin(dim=0) * 1.0001 + 1e-9).all()
        assert len(set(chosen)) > 1
        torch.testing.assert_close(fitted[f"{fc2}.weight"] * scale, out_weight, rtol=1e-3, atol=1e-5)
        moved = parameters[f"{fc2}.bias"] - fitted[f"{fc2}.bias"]
        expected = out_weight @ errors.mean(dim=1)[chosen, units].to(torch.float32)
        torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-4)
    unchanged = {name for name in parameters if ".mlp." not in name}
    assert all(torch.equal(parameters[name], fitted[name]) for name in unchanged)


def test_adapted_network_is_closer_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, pictures_u8 = network(DENSE)
    plain = export(parameters, DENSE, calibrate(parameters, DENSE, pictures_u8, MEAN, STD), MEAN, STD)
    adapted = export(*_swap(adapt(parameters, DENSE, pictures_u8, MEAN, STD)), MEAN, STD)
    monkeypatch.setattr("quant.torch_forward.polynomial_gelu", lambda x, delta1: functional.gelu(x))
    exact = taps_of(parameters, DENSE, pictures_u8)["head"][:, 0]
    errors = [
        float((FastGolden(net).run(torch.from_numpy(pictures_u8)).logits_i16 * net.logit_scale - exact).square().mean())
        for net in (plain, adapted)
    ]
    assert errors[1] < 0.7 * errors[0]


def _swap(
    adapted: tuple[dict[str, Tensor], dict[str, float]],
) -> tuple[dict[str, Tensor], NetworkConfig, dict[str, float]]:
    """Put the topology where export takes it."""
    return adapted[0], DENSE, adapted[1]


@pytest.mark.parametrize("config", [PRUNED, replace(DENSE, delta2=0.5)])
def test_contexts_get_the_line_to_those_of_the_exact_softmax(config: NetworkConfig) -> None:
    """By the golden model's own softmax, picture by picture, in every block and for CLS alone in the last one."""
    parameters, pictures_u8 = network(config)
    for block in (0, 1):
        parameters[f"blocks.{block}.attn.qkv.weight"][: config.embed_dim] *= 0.3  # many tokens count
    thresholds = (0,) * len(config.selectors)
    fitted = fit_contexts(parameters, config, pictures_u8, MEAN, STD, thresholds)
    changed = {name for name in parameters if not fitted[name].equal(parameters[name])}
    assert changed == {f"blocks.{block}.attn.proj.{part}" for block in (0, 1) for part in ("weight", "bias")}
    taps = taps_of(parameters, config, pictures_u8)
    for block in (0, 1):
        name, rows = f"blocks.{block}.attn", slice(1) if block == 1 else slice(None, None, ROW_STRIDE)
        score = taps[f"{name}.scores"][..., : config.num_tokens, : config.num_tokens][:, :, rows]
        v = split_heads(taps[f"{name}.v"], config.num_heads)
        codes, sums = softmax_rows((score * 256).round().to(torch.int64), torch.ones(config.num_tokens, dtype=bool))
        found = config.delta2 * merge_heads(codes.float() @ v / sums[..., None]).flatten(0, 1)
        exact = config.delta2 * merge_heads(torch.softmax(score * np.log(2), -1) @ v).flatten(0, 1)
        weight, bias = (parameters[f"{name}.proj.{part}"] for part in ("weight", "bias"))
        slope = (fitted[f"{name}.proj.weight"] / weight).mean(dim=0)
        best = np.array([np.polyfit(found[:, c].numpy(), exact[:, c].numpy(), 1) for c in range(found.shape[1])])
        line = torch.from_numpy(best.T.astype(np.float32))
        torch.testing.assert_close(slope, line[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fitted[f"{name}.proj.bias"], bias + weight @ line[1], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(slope, torch.ones_like(slope), atol=2e-3)


def test_a_channel_that_does_not_vary_keeps_its_slope() -> None:
    parameters, pictures_u8 = network(DENSE)
    for part in ("weight", "bias"):
        parameters[f"blocks.0.attn.qkv.{part}"][2 * DENSE.embed_dim] = 0.0
    fitted = fit_contexts(parameters, DENSE, pictures_u8, MEAN, STD)["blocks.0.attn.proj.weight"]
    assert fitted[:, 0].equal(parameters["blocks.0.attn.proj.weight"][:, 0]) and fitted.isfinite().all()
