"""What quantization loses, layer by layer.

Testpoints: the noise of a layer is that of its taps, computed one by one; the worst comes first, every layer is there
and selectors prune nothing; rounding alone is never much worse than all that was lost; a layer without noise has a
finite ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from quant.config import NetworkConfig
from quant.convert import calibrate, check_parameters, export
from quant.fake_quant import Format, Mode, Quantized
from quant.reference import run
from quant.signal_to_noise import _decibels, signal_to_noise
from quant.synthetic import random_parameters
from quant.torch_forward import run_batch
from quant.torch_layers import TorchLayers

CONFIG = NetworkConfig(8, 2, 3, 5, 24, 2, 3, 20, selectors=(1,))
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(config: NetworkConfig, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, float], np.ndarray]:
    """Return parameters, scales and calibration pictures."""
    rng = np.random.default_rng(seed)
    parameters = check_parameters(random_parameters(rng, config), config)
    pictures_u8 = rng.integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    return parameters, calibrate(parameters, config, pictures_u8, MEAN, STD), pictures_u8


def float_taps(
    parameters: dict[str, torch.Tensor], config: NetworkConfig, pictures_u8: np.ndarray
) -> dict[str, torch.Tensor]:
    taps: dict[str, torch.Tensor] = {}

    def record(name: str, tensor: Quantized, valid: torch.Tensor) -> None:
        taps[name] = tensor.value

    thresholds = (0,) * len(config.selectors)
    net = TorchLayers(config, Mode.FLOAT, parameters, mean=MEAN, std=STD, thresholds=thresholds, record=record)
    with torch.no_grad():
        run_batch(net, torch.from_numpy(pictures_u8))
    return taps


def test_noise_is_that_of_the_taps() -> None:
    parameters, scales, pictures_u8 = network(CONFIG)
    integers = export(parameters, CONFIG, scales, MEAN, STD)
    steps: list[tuple[int, int]] = []
    layers = signal_to_noise(
        parameters, integers, scales, MEAN, STD, pictures_u8, lambda done, total: steps.append((done, total))
    )
    assert steps == [(4, 9), (8, 9), (9, 9)]
    assert [layer.snr_db for layer in layers] == sorted(layer.snr_db for layer in layers)
    by_name = {layer.name: layer for layer in layers}
    keep_all = replace(integers, selectors=(replace(integers.selectors[0], threshold_u16=0),))
    golden = [run(keep_all, picture_u8).taps for picture_u8 in pictures_u8]
    assert set(by_name) == {name for name in golden[0] if not name.endswith((".exp", ".tokens"))}
    exact = float_taps(parameters, CONFIG, pictures_u8)
    for name, scale in (
        ("blocks.0.attn.v", scales["blocks.0.attn.v"]),
        ("blocks.1.attn.scores", 2.0**-8),
        ("selectors.0.pooled", scales["selectors.0.local"]),
        ("selectors.0.keep_score", 2.0**-16),
        ("blocks.0.mlp.fc1", scales["blocks.0.mlp.fc1"]),
        ("blocks.1.mlp.fc2", scales["residual"]),
        ("head", scales["head"]),
    ):
        codes = np.stack([taps[name] for taps in golden]).astype(np.float64)
        value = exact[name].numpy().astype(np.float64)
        value = value[:, :, :17, :17] if value.ndim == 4 else value[:, : codes.shape[1]]
        zero = Format.gelu(scale, CONFIG.delta1).zero if name.endswith(".fc1") else 0.0
        expected = 10 * np.log10((value**2).sum() / ((codes * scale + zero - value) ** 2).sum())
        assert by_name[name].snr_db == pytest.approx(expected, abs=1e-3), name
        assert by_name[name].rounding_db > by_name[name].snr_db - 1
    assert by_name["blocks.0.mlp.fc1"].snr_db > 25  # nearly all of its 256 codes are used
    assert by_name["patch_embed"].rounding_db > 60 > by_name["blocks.0.norm1"].rounding_db


def test_ratios_without_noise_or_signal_are_finite() -> None:
    assert (_decibels(1.0, 0.0), _decibels(0.0, 1.0), _decibels(0.0, 0.0)) == (200.0, -200.0, 200.0)
    assert _decibels(1.0, 0.01) == pytest.approx(20.0)
