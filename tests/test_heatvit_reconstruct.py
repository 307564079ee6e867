"""Integers that learn to answer as the float network does.

Testpoints: their logits come closer to the float ones, on pictures that were not learned from; selectors, and networks
trained with our own polynomials, stay as they are; parameters, scales and integers belong together; the first pictures
give the scales, and no more than asked for are learned from; the float network is left alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.progress import Progress

from heatvit import integers
from heatvit.integers import quantize_after_training, reconstruct
from model.approx import Kernels
from model.data import PixelPictures
from model.inference import infer
from model.recipe import Stage
from model.vit import IMAGENET, VisionTransformer
from quant.config import NetworkConfig
from quant.convert import export
from quant.fast_golden import FastGolden
from quant.network import U8, IntegerNetwork

SMALL = NetworkConfig(
    image_size=16,
    patch_size=4,
    in_chans=3,
    num_classes=7,
    embed_dim=16,
    depth=3,
    num_heads=2,
    mlp_hidden=24,
    selectors=(1,),
)
QUIET = Progress(disable=True)


@pytest.fixture
def pictures() -> PixelPictures:
    pixels = np.random.default_rng(5).integers(0, 256, (64, 3, 16, 16), np.uint8)
    return PixelPictures(pixels, np.zeros(64, np.int64))


def network(config: NetworkConfig, kernels: Kernels = Kernels.FUSED) -> VisionTransformer:
    torch.manual_seed(4)
    made = VisionTransformer(config, IMAGENET, kernels)
    for values in made.parameters():  # weights that make a picture matter
        values.data += 0.6 * torch.randn_like(values)
    return made.eval()


def error(network: VisionTransformer, integers: IntegerNetwork, pictures_u8: U8) -> float:
    """Relative root mean square error of the integers' logits."""
    batch = torch.from_numpy(pictures_u8)
    exact = infer(network, batch, network.kernels).logits
    found = FastGolden(integers).run(batch).logits_i16 * integers.logit_scale
    return float((found - exact).norm() / exact.norm())


def test_integers_come_closer_on_other_pictures(pictures: PixelPictures, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = network(replace(SMALL, selectors=()))
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    start = quantize_after_training(dense, pictures.pictures_u8)
    spoilt = {**start.parameters, "head.bias": start.parameters["head.bias"] + 1}  # an error that can be made up for
    exported = export(spoilt, dense.config, start.scales, IMAGENET.mean, IMAGENET.std)
    monkeypatch.setattr(
        integers, "quantize_after_training", lambda *_: integers.PostTraining(exported, spoilt, start.scales)
    )
    stage = Stage(epochs=16, learning_rate=1e-4, vector_factor=100.0)
    recipe = replace(integers.RECONSTRUCTION, quantize=stage, batch_size=8)
    monkeypatch.setattr(integers, "RECONSTRUCTION", recipe)
    others_u8 = np.random.default_rng(6).integers(0, 256, (64, 3, 16, 16), np.uint8)
    result = reconstruct(dense, pictures, QUIET)
    assert error(dense, result.integers, others_u8) < 0.5 * error(dense, exported, others_u8)
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_selectors_stay(pictures: PixelPictures) -> None:
    pruned = network(SMALL)
    start = quantize_after_training(pruned, pictures.pictures_u8)
    result = reconstruct(pruned, pictures, QUIET)
    same = {name for name, value in start.parameters.items() if torch.equal(value, result.parameters[name])}
    assert same == {name for name in start.parameters if name.startswith("selectors.")}


def test_parts_of_the_result_belong_together(pictures: PixelPictures) -> None:
    dense = network(replace(SMALL, selectors=()))
    result = reconstruct(dense, pictures, QUIET)
    batch = torch.from_numpy(pictures.pictures_u8)
    exported = export(result.parameters, dense.config, result.scales, IMAGENET.mean, IMAGENET.std)
    logits = [FastGolden(each).run(batch).logits_i16 for each in (exported, result.integers)]
    assert torch.equal(*logits)


def test_networks_of_our_polynomials_are_not_touched(pictures: PixelPictures) -> None:
    ours = network(SMALL, Kernels.TRAINED)
    result = reconstruct(ours, pictures, QUIET)
    assert all(torch.equal(value, result.parameters[name]) for name, value in ours.state_dict().items())


def test_only_so_many_pictures_are_seen(pictures: PixelPictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "RECONSTRUCTION_PICTURES", 32)
    dense = network(replace(SMALL, selectors=()))
    changed_u8 = pictures.pictures_u8.copy()
    changed_u8[32:] = 255 - changed_u8[32:]
    changed = PixelPictures(changed_u8, pictures.labels)
    results = [reconstruct(dense, each, QUIET, calibration_count=16) for each in (pictures, changed)]
    assert results[0].scales == results[1].scales == quantize_after_training(dense, changed_u8[:16]).scales
    assert all(torch.equal(value, results[1].parameters[name]) for name, value in results[0].parameters.items())
