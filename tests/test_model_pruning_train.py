"""Selectors for a trained network, on a network of seconds.

Testpoints: saliency is the first-order change of the class score; candidate selectors learn a ranking; a shift of the
keep logits gives the wanted ratios; the package bias is the best candidate, chosen once a limit; no pruning diverges
by nothing; a view shares its parameters; a training meets its limits by its table, keeps selectors between limits,
goes on where it was interrupted with the same weights, and only loads when it is finished; a network without a package
token has none in both paths; what a checkpoint remembers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor

from model.approx import Kernels
from model.checkpoint import load_network, save_network
from model.config import NETWORKS
from model.data import PixelPictures
from model.inference import infer
from model.losses import logit_divergence_loss
from model.pruning import train as train_module
from model.pruning.insertion import Divergence, InsertionRule, with_selectors
from model.pruning.latency import LatencyTable
from model.pruning.package_bias import BIASES, fit_package_bias
from model.pruning.plan import NO_STAGE, PruningPlan
from model.pruning.train import Pruned, prune
from model.pruning.warm_start import falling_shares, ranking_loss, set_keep_ratios, token_saliency
from model.recipe import Recipe, Stage
from model.resume import Record
from model.train import Run
from model.vit import Normalisation, VisionTransformer

CONFIG = replace(NETWORKS["test_tiny"], selectors=())
GREY = Normalisation((0.4,), (0.3,))
TABLE = LatencyTable(tokens=(1, 17), block_cycles=(10, 170), selector_cycles=(2, 2), other_cycles=5)
PLAN = PruningPlan(
    network="test_tiny",
    weights="",
    images="",
    held_out=8,
    accelerator="tiny",
    limits=(430.0, 380.0),
    insertion=InsertionRule(first_block=1, max_divergence=(0.5,), merge_below=0.01),
    warm_start=Stage(epochs=2, learning_rate=1e-2),
    recipe=Recipe(
        (),
        NO_STAGE,
        Stage(2, 1e-3),
        Stage(1, 1e-4),
        seed=1,  # scores of some seeds come in larger groups than keep ratios can bear
        batch_size=8,
        min_crop=0.5,
        is_flipped=True,
        class_weight=0.0,
        regression_weight=0.0,  # with it, more scores of this network are equal than keep ratios can bear
    ),
)


def dense(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    network = VisionTransformer(CONFIG, GREY, Kernels.FUSED)
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter)
    return network.eval()


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)


def with_all_selectors(network: VisionTransformer, has_package: bool = True) -> VisionTransformer:
    torch.manual_seed(3)
    result = VisionTransformer(replace(CONFIG, selectors=(1, 2)), GREY, Kernels.FUSED, has_package)
    result.load_state_dict(network.state_dict(), strict=False)
    for selector in result.selectors:
        torch.nn.init.normal_(selector.token_score.weight, std=4.0)
        torch.nn.init.zeros_(selector.token_score.bias)
    return result.eval()


RATIOS = (0.6, 0.3)


def test_package_bias_is_the_one_that_diverges_least() -> None:
    teacher, x = dense(), pixels(40)
    network = with_all_selectors(teacher)
    network.selectors[0].package_bias.data.fill_(0.7)

    def divergence(*biases: Tensor) -> float:
        for selector, bias in zip(network.selectors, biases, strict=True):
            selector.package_bias.data.copy_(bias)
        set_keep_ratios(network, x, RATIOS)
        logits = [infer(model, x, Kernels.FUSED).logits for model in (network, teacher)]
        return float(logit_divergence_loss(*logits))

    start = [torch.full((2,), value) for value in (0.7, 0.0)]
    candidates = [torch.full((2,), value) for value in (0.7, *BIASES)]
    last = min(candidates[1:], key=lambda bias: divergence(start[0], bias))
    first = min(candidates, key=lambda bias: divergence(bias, last))
    divergence(*start)
    for selector in network.selectors:
        selector.token_score.bias.data += torch.tensor([0.5, 0.0])  # keeps more: the fit has to see to it
    fit_package_bias(network, x, RATIOS, teacher)
    assert [selector.package_bias.tolist() for selector in network.selectors] == [first.tolist(), last.tolist()]
    kept = [mask.float().mean().item() for mask in infer(network, x, Kernels.FUSED).kept]
    assert kept == pytest.approx(RATIOS, abs=0.02)
    assert divergence(first, last) < divergence(*start)


def test_saliency_is_the_change_of_the_class_score() -> None:
    network, x = dense(), pixels(2)
    (entering,), (saliency,) = token_saliency(network, x, [1])
    assert entering.shape == (2, 17, 16) and saliency.shape == (2, 16)
    step, patch = 1e-3, 5

    def score(tokens: Tensor) -> Tensor:
        for block in list(network.blocks)[1:]:
            tokens = block(tokens, torch.ones(tokens.shape[:2]), Kernels.FUSED)
        return network.head(network.norm(tokens[:, 0]))

    with torch.no_grad():
        classes = score(entering).argmax(-1, keepdim=True)
        moved = entering.clone()
        moved[:, patch + 1] += step * (entering[:, 1:].mean(1) - entering[:, patch + 1])
        change = (score(moved) - score(entering)).gather(1, classes)[:, 0] / step
    torch.testing.assert_close(change.abs(), saliency[:, patch], rtol=2e-2, atol=2e-3)


def test_candidates_learn_a_ranking() -> None:
    network, x = with_all_selectors(dense()), pixels(8)
    entering, saliency = token_saliency(dense(), x, [1, 2])
    optimizer = torch.optim.Adam(network.selectors.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = ranking_loss(network, entering, saliency, [0.5, 0.25])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_salient_shares_fall() -> None:
    shares = falling_shares(range(3, 12), 12)
    assert shares[0] == 0.75 and shares == sorted(shares, reverse=True) and 0.1 < shares[-1] < 0.3


@pytest.mark.parametrize("ratios", [(0.75, 0.5), (0.5, 0.125), (1.0, 1.0)])
def test_keep_ratios_can_be_set(ratios: tuple[float, float]) -> None:
    network, x = with_all_selectors(dense()), pixels(32)
    set_keep_ratios(network, x, ratios)
    kept = infer(network, x, network.kernels).kept
    assert [stage.float().mean().item() for stage in kept] == pytest.approx(ratios, abs=0.03)


def test_divergence() -> None:
    candidates = with_all_selectors(dense())
    divergence = Divergence(candidates, pixels(20).numpy())
    assert divergence({1: 1.0, 2: 1.0}) == pytest.approx(0, abs=1e-5)
    assert divergence({2: 0.25}) > 1e-4
    logits, expected = (infer(dense(), pixels(20), Kernels.FUSED).logits for _ in range(2))
    pruned = infer(with_selectors(candidates, (1,)), pixels(20), Kernels.FUSED, token_counts=[6]).logits
    assert logits.equal(expected)
    log = torch.log_softmax
    by_hand = (log(expected, -1).exp() * (log(expected, -1) - log(pruned, -1))).sum(-1).mean()
    assert divergence({1: 4 / 16}) == pytest.approx(by_hand.item(), rel=1e-4)
    torch.nn.init.zeros_(candidates.head.weight)
    assert divergence({1: 4 / 16}) == pytest.approx(by_hand.item(), rel=1e-4), "measured once"
    assert divergence({1: 5 / 16}) != pytest.approx(by_hand.item(), rel=1e-2)


def test_a_view_shares_its_parameters() -> None:
    candidates = with_all_selectors(dense())
    view = with_selectors(candidates, (2,))
    assert view.config.selectors == (2,) and view.selectors[0] is candidates.selectors[1]
    assert view.head.weight.data_ptr() == candidates.head.weight.data_ptr()


def test_a_next_limit_goes_on_with_the_selectors_it_has() -> None:
    candidates = with_all_selectors(dense())
    start = train_module._assemble(candidates, candidates, {1: 0.5})
    for parameter in start.parameters():
        torch.nn.init.normal_(parameter)
    network = train_module._assemble(start, candidates, {1: 0.4, 2: 0.2})
    assert network.config.selectors == (1, 2) and network.head.weight.equal(start.head.weight)
    assert network.selectors[0].token1.weight.equal(start.selectors[0].token1.weight)
    assert network.selectors[1].token1.weight.equal(candidates.selectors[1].token1.weight)


def run_prune(out: Path, plan: PruningPlan = PLAN) -> list[Pruned]:
    pictures = PixelPictures(pixels(40).numpy(), np.zeros(40, np.int64))
    with Progress(disable=True) as progress:
        run = Run(plan.recipe, pictures, out, progress, Record.open(out / "training.json", plan.to_dict()))
        return list(prune(run, plan, dense(), TABLE))


def same_weights(first: list[Pruned], second: list[Pruned]) -> bool:
    return all(
        torch.equal(value, other.network.state_dict()[name])
        for one, other in zip(first, second, strict=True)
        for name, value in one.network.state_dict().items()
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Pruned]]:
    out = tmp_path_factory.mktemp("pruned")
    return out, run_prune(out)


def test_limits_are_met(finished: tuple[Path, list[Pruned]]) -> None:
    out, results = finished
    for result, limit in zip(results, PLAN.limits, strict=True):
        assert result.predicted_cycles == pytest.approx(limit, abs=0.5)
        assert TABLE.cycles(result.network.config, result.keep_ratios) == result.predicted_cycles
        assert tuple(result.keep_ratios) == result.network.config.selectors
        expected = [ratio * 16 + 2 for ratio in result.keep_ratios.values()]
        assert result.num_tokens == pytest.approx(expected, abs=2)  # scores of this network come in groups
        assert 0 <= result.agreement <= 1 and result.divergence > 0
    assert {path.name for path in out.iterdir()} == {
        "candidates.safetensors",
        "limit_430.safetensors",
        "limit_380.safetensors",
        "training.json",
    }


def test_package_biases_are_fitted_once_a_limit_on_training_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[VisionTransformer, Tensor, tuple[float, ...], VisionTransformer]] = []
    monkeypatch.setattr(train_module, "fit_package_bias", lambda *arguments: calls.append(arguments))
    results = run_prune(tmp_path / "with")
    assert [ratios for _, _, ratios, _ in calls] == [tuple(result.keep_ratios.values()) for result in results]
    for _, pictures_u8, _, teacher in calls:
        assert torch.equal(pictures_u8, pixels(40)[PLAN.held_out :]) and not teacher.config.selectors
    run_prune(tmp_path / "without", replace(PLAN, has_package=False))
    assert len(calls) == len(results)


def test_a_finished_training_only_loads(finished: tuple[Path, list[Pruned]], monkeypatch: pytest.MonkeyPatch) -> None:
    out, results = finished
    monkeypatch.setattr(train_module, "fit", None)
    monkeypatch.setattr(train_module, "insert_selectors", None)
    assert same_weights(run_prune(out), results)


@pytest.mark.parametrize("interrupted", ["_warm_start_epoch", "insert_selectors", "fit"])
def test_an_interrupted_training_goes_on(
    finished: tuple[Path, list[Pruned]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    original, calls = getattr(train_module, interrupted), []

    def stop_at_the_second(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, interrupted, stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            run_prune(tmp_path)
    assert same_weights(run_prune(tmp_path), finished[1])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"held_out": 40}, "held_out must be below the number of pictures, 40, not 40"),
        ({"insertion": InsertionRule(3, (0.5,), 0.01)}, "first_block must be below the depth 3, not 3"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_prune(tmp_path, replace(PLAN, **fields))


def test_without_a_package_token_both_paths_agree() -> None:
    network, x = with_all_selectors(dense(), has_package=False), pixels(6)
    with torch.no_grad():
        output = network(x)
    result = infer(network, x, Kernels.FUSED)
    torch.testing.assert_close(result.logits, output.logits, atol=2e-5, rtol=1e-5)
    for mask, count in zip(output.keep_masks, result.num_tokens, strict=True):
        assert (mask.sum(-1) + 1).tolist() == count.tolist()
    fixed = infer(network, x, Kernels.FUSED, token_counts=[9, 5])
    assert [kept.sum(1).tolist() for kept in fixed.kept] == [[8] * 6, [4] * 6]


def test_a_checkpoint_remembers_how_it_computes(tmp_path: Path) -> None:
    save_network(tmp_path / "network.safetensors", with_all_selectors(dense(), has_package=False))
    loaded = load_network(tmp_path / "network.safetensors")
    assert loaded.kernels is Kernels.FUSED and not loaded.has_package
