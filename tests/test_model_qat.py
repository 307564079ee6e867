"""Quantization-aware training is the golden model, exactly, and the float model, closely.

Testpoints: with and without selectors, all and none pruned: logits, tokens, counts and every tap of the training and
the evaluation forward equal the golden model on the exported network, before and after an optimizer step and under
autocast; gradients reach every parameter and point where those of the float network point; a decision passes its
gradient to the score; some steps lower a loss; float logits and golden logits are close; observed taps are the float
network's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.pruning.warm_start import set_keep_ratios
from model.qat import QatNetwork
from model.vit import Normalisation, VisionTransformer
from quant.config import NetworkConfig
from quant.convert import run_float
from quant.fake_quant import Quantized
from quant.reference import run
from quant.synthetic import random_config, random_parameters

CONFIG = NetworkConfig(8, 2, 3, 5, 24, 2, 3, 20, selectors=(0, 1), delta1=0.5, delta2=0.5)
BATCH = 6


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def float_network(rng: np.random.Generator, config: NetworkConfig) -> VisionTransformer:
    chans = config.in_chans
    network = VisionTransformer(config, Normalisation((0.5,) * chans, (0.25,) * chans))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in random_parameters(rng, config).items()})
    return network


def test_float_taps_are_those_of_the_float_network() -> None:
    """With tokens pruned and a package that weighs much: observers see what the network that was trained computes."""
    rng = np.random.default_rng(5)
    network = float_network(rng, CONFIG).eval()
    for selector in network.selectors:
        selector.package_bias.data.copy_(torch.tensor([3.0, -2.0, 1.0]))
    pictures = random_batch(rng, CONFIG)
    set_keep_ratios(network, torch.from_numpy(pictures), (0.6, 0.3))
    with torch.no_grad():
        output = network(torch.from_numpy(pictures))
    assert all(2 < int(count.min()) and int(count.max()) < CONFIG.num_tokens for count in output.num_tokens)
    taps: dict[str, Tensor] = {}
    mean, std = network.normalisation.mean, network.normalisation.std

    def record(name: str, tensor: Quantized, valid: Tensor) -> None:
        taps[name] = tensor.value

    run_float(dict(network.named_parameters()), CONFIG, pictures, mean, std, None, record)
    for number, (tokens, live) in enumerate(output.residuals):
        error = (taps[f"blocks.{number}.mlp.fc2"] - tokens)[live.bool()]
        assert error.abs().max() < 0.02 * tokens[live.bool()].abs().max()  # the polynomial exponential
    assert (taps["head"][:, 0] - output.logits).abs().max() < 0.02 * output.logits.abs().max()


def random_batch(rng: np.random.Generator, config: NetworkConfig, count: int = BATCH) -> np.ndarray:
    return rng.integers(0, 256, (count, config.in_chans, config.image_size, config.image_size), dtype=np.uint8)


def assert_equal_to_golden(qat: QatNetwork, pictures: np.ndarray) -> list[list[int]]:
    """Compare logits, live tokens and every tap of the current mode with the golden model; return the live tokens."""
    taps: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, tensor: Quantized, valid: Tensor) -> None:
        taps[name] = (tensor.codes, valid)

    output = qat(torch.from_numpy(pictures), record=record)
    network = qat.export()
    counts = []
    for index, picture in enumerate(pictures):
        golden = run(network, picture)
        logits = golden.logits_i16.astype(np.float32) * np.float32(network.logit_scale)
        assert (output.logits[index].detach().numpy() == logits).all()
        assert [int(count[index]) for count in output.num_tokens] == golden.num_tokens
        for mask, tokens in zip(output.keep_masks, golden.tokens, strict=True):
            kept = tokens[(tokens > 0) & (tokens < 65535)]
            assert (torch.nonzero(mask[index])[:, 0].numpy() + 1 == kept).all()
        assert taps.keys() == golden.taps.keys()
        for name, (codes, valid) in taps.items():
            rows = valid[index]
            value = codes[index][:, rows][..., rows] if name.endswith((".scores", ".exp")) else codes[index][rows]
            assert value.shape == golden.taps[name].shape, name
            assert (value.numpy() == golden.taps[name]).all(), name
        counts.append(golden.num_tokens)
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_training_and_evaluation_forward_equal_the_golden_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    thresholds = [int(rng.choice([30000, 33000, 36000])) for _ in config.selectors]
    qat = QatNetwork.calibrated(float_network(rng, config), random_batch(rng, config), thresholds)
    pictures = random_batch(rng, config)
    counts = assert_equal_to_golden(qat, pictures)
    with torch.no_grad():
        assert assert_equal_to_golden(qat, pictures) == counts


@pytest.mark.parametrize(
    ("thresholds", "expected"), [([0, 0], [17, 17]), ([65535, 65535], [2, 2]), ([65535, 0], [2, 2])]
)
def test_all_and_none_pruned(thresholds: list[int], expected: list[int]) -> None:
    rng = np.random.default_rng(20)
    qat = QatNetwork.calibrated(float_network(rng, CONFIG), random_batch(rng, CONFIG), thresholds)
    assert assert_equal_to_golden(qat, random_batch(rng, CONFIG)) == [expected] * BATCH


def test_an_optimizer_step_keeps_them_equal() -> None:
    rng = np.random.default_rng(21)
    qat = QatNetwork.calibrated(float_network(rng, CONFIG), random_batch(rng, CONFIG), [32768, 33000])
    optimizer = torch.optim.SGD(qat.parameters(), lr=0.05)
    pictures = random_batch(rng, CONFIG)
    for _ in range(3):
        output = qat(torch.from_numpy(pictures))
        optimizer.zero_grad()
        (output.logits.square().mean() + sum(mask.mean() for mask in output.keep_masks)).backward()
        optimizer.step()
        assert_equal_to_golden(qat, pictures)


def test_bfloat16_products_of_a_float_teacher_leave_the_integers_alone() -> None:
    rng = np.random.default_rng(23)
    qat = QatNetwork.calibrated(float_network(rng, CONFIG), random_batch(rng, CONFIG), [32768, 33000])
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal_to_golden(qat, random_batch(rng, CONFIG))


def test_gradients_reach_every_parameter() -> None:
    rng = np.random.default_rng(22)
    qat = QatNetwork.calibrated(float_network(rng, CONFIG), random_batch(rng, CONFIG), [32768, 33000])
    output = qat(torch.from_numpy(random_batch(rng, CONFIG, 16)))
    output.logits.square().sum().backward()  # the logits alone: selectors learn through the attention of others
    for name, parameter in qat.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_gradients_point_where_those_of_the_float_network_do() -> None:
    rng = np.random.default_rng(23)
    config = replace(CONFIG, selectors=())
    network = float_network(rng, config)
    pictures = torch.from_numpy(random_batch(rng, config, 16))
    direction = torch.from_numpy(rng.normal(size=(16, 5))).to(torch.float32)
    (network(pictures).logits * direction).sum().backward()
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    qat = QatNetwork.calibrated(network, pictures.numpy())
    (qat(pictures).logits * direction).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        cosine = torch.cosine_similarity(parameter.grad.flatten(), expected[name].flatten(), dim=0)
        assert cosine > 0.97, name
        assert 0.9 < parameter.grad.norm() / expected[name].norm() < 1.1, name


def test_a_decision_passes_its_gradient_to_the_score() -> None:
    rng = np.random.default_rng(24)
    qat = QatNetwork.calibrated(float_network(rng, CONFIG), random_batch(rng, CONFIG), [65535, 65535])
    output = qat(torch.from_numpy(random_batch(rng, CONFIG)))
    assert bool((output.keep_masks[0] == 0).all()) and bool((output.keep_scores[0] > 0).all())
    output.keep_masks[0].sum().backward()
    gradient = qat.network.selectors[0].token_score.bias.grad
    assert gradient is not None
    assert bool((gradient[:, 0] > 0).all()) and bool((gradient[:, 1] < 0).all())  # keep up, prune down: more are kept


def test_training_lowers_a_loss() -> None:
    rng = np.random.default_rng(25)
    qat = QatNetwork.calibrated(float_network(rng, CONFIG), random_batch(rng, CONFIG), [32768, 32768])
    pictures, labels = torch.from_numpy(random_batch(rng, CONFIG, 10)), torch.arange(10) % 5
    optimizer = torch.optim.Adam(qat.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(qat(pictures).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("seed", range(4))
def test_golden_logits_are_close_to_the_float_model(seed: int) -> None:
    """Root mean square difference below a tenth of the logits' standard deviation; nothing pruned, so same tokens."""
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    for_float = float_network(rng, config)
    for selector in for_float.selectors:  # a keep score near 1 in float and in integers
        torch.nn.init.zeros_(selector.token_score.weight)
        torch.nn.init.constant_(selector.token_score.bias[:, 0], 8.0)
    pictures = random_batch(rng, config, 24)
    qat = QatNetwork.calibrated(for_float, pictures[:16])
    network = qat.export()
    with torch.no_grad():
        exact = for_float(torch.from_numpy(pictures)).logits.numpy()
    golden = np.stack([run(network, picture, taps=False).logits_i16 * network.logit_scale for picture in pictures])
    assert np.sqrt(((golden - exact) ** 2).mean()) < 0.1 * exact.std()
