"""Evaluation.

Testpoints: MACs of DeiT-Tiny dense and of HeatViT-T's token counts are the published ones; the selector's share is that
of its layers; MACs equal those that torch executes; top-1, token counts and the MAC ratio of a network are those of
its pictures one by one; the network's training mode is restored; a dense network has no token counts.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.config import NETWORKS
from model.data import PixelPictures
from model.evaluate import evaluate, macs
from model.inference import infer
from model.vit import Normalisation, VisionTransformer

TINY = NETWORKS["test_tiny"]


def test_macs_of_deit_tiny_are_the_published_ones() -> None:
    assert macs(replace(NETWORKS["deit_tiny"], selectors=()), ()) == pytest.approx(1.254e9, rel=1e-3)
    assert macs(NETWORKS["deit_tiny"], (88, 45, 32)) == pytest.approx(0.567e9, rel=0.01)


def test_selectors_cost_what_their_layers_cost() -> None:
    config = NETWORKS["deit_tiny"]
    overhead = macs(config, (197, 197, 197)) - macs(replace(config, selectors=()), ())
    per_head = 64 * 32 + 64 * 32 + 32 * 16 + 16 + 32  # local, token1, token2, token_score, token mean
    assert overhead == 3 * 197 * (3 * per_head + 192 + 3)


def test_macs_are_those_that_torch_executes() -> None:
    network = VisionTransformer(replace(TINY, selectors=()), Normalisation((0.4,), (0.3,)))
    picture = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        infer(network, picture)
    assert macs(network.config, ()) == counter.get_total_flops() // 2


def test_wrong_token_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="token_counts must have 2 entries, not"):
        macs(TINY, (3,))


def test_evaluation_is_that_of_the_pictures_one_by_one() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(TINY, Normalisation((0.4,), (0.3,)))
    for selector in network.selectors:
        nn.init.normal_(selector.token_score.weight, std=6.0)
        selector.token_score.bias.data.zero_()
    rng = np.random.default_rng(0)
    pictures = PixelPictures(rng.integers(0, 256, (10, 1, 16, 16), np.uint8), rng.integers(0, 3, 10))
    network.train()
    result = evaluate(network, TINY, pictures, batch_size=4)
    assert network.training
    single = [infer(network, torch.from_numpy(pictures.load(np.array([index])))) for index in range(10)]
    counts = [[int(count) for count in output.num_tokens] for output in single]
    assert result.predictions.tolist() == [int(output.logits.argmax()) for output in single]
    assert result.num_tokens.tolist() == counts
    assert len({tuple(row) for row in result.num_tokens.tolist()}) > 1
    assert result.top1 == sum(result.predictions == pictures.labels) / 10
    assert result.macs.tolist() == [macs(TINY, row) for row in counts]
    assert result.macs_ratio == pytest.approx(result.macs.mean() / macs(replace(TINY, selectors=()), ()))


def test_dense_network_has_no_token_counts() -> None:
    config = replace(TINY, selectors=())
    network = VisionTransformer(config, Normalisation((0.4,), (0.3,)))
    result = evaluate(network, config, PixelPictures(np.zeros((3, 1, 16, 16), np.uint8), np.zeros(3, np.int64)))
    assert result.num_tokens.shape == (3, 0) and result.macs_ratio == 1.0
