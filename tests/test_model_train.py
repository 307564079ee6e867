"""Training.

Testpoints: a small network learns a task and stays accurate while its selectors reach their keep ratios; the same seed
gives the same weights, another seed others; an interrupted run gives the weights of an uninterrupted one, in every
stage; a finished run only loads; a folder of another training and a broken state are refused; start weights are used;
the 8-bit network trains with the same loop, by logits and residuals; the loss is the weighted sum of its terms;
warm-up and cosine; decay reaches matrices only and selectors learn faster; the normalisation is that of the pictures;
the thread count is restored.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress

from model import train as train_module
from model.checkpoint import save_network
from model.config import NETWORKS
from model.data import PixelPictures
from model.losses import keep_ratios, logit_divergence_loss, logit_regression_loss, residual_distillation_loss
from model.qat import QatNetwork
from model.recipe import Recipe, Stage
from model.resume import Record
from model.train import Run, Trained, fit, measure_normalisation, train
from model.vit import Normalisation, VisionTransformer

CONFIG = NETWORKS["test_tiny"]
SHORT = Recipe(
    keep_ratios=(0.6, 0.4),
    dense=Stage(epochs=2, learning_rate=1e-3),
    select=Stage(epochs=2, learning_rate=1e-3, exploration=0.5),
    quantize=Stage(epochs=1, learning_rate=1e-4),
    batch_size=16,
    max_shift=1,
)


def striped_patches(count: int, seed: int) -> PixelPictures:
    """Pictures of noise with one patch that stands out: its class is the direction of its stripes, or none."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40, (count, 1, 16, 16), np.uint8)
    labels = rng.integers(0, 3, count)
    row, column = np.indices((4, 4))
    stamps = np.stack([row % 2 * 255, column % 2 * 255, np.full((4, 4), 255)]).astype(np.uint8)
    for image, label, (top, left) in zip(pixels, labels, 4 * rng.integers(0, 4, (count, 2)), strict=True):
        image[0, top : top + 4, left : left + 4] = stamps[label]
    return PixelPictures(pixels, labels)


TRAIN, TEST = striped_patches(48, 0), striped_patches(30, 1)


def run(out_dir: Path, recipe: Recipe = SHORT, **options: Any) -> Trained:
    with Progress(disable=True) as progress:
        return train(CONFIG, recipe, TRAIN, TEST, out_dir, progress, **options)


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("reference"))


def test_pruned_network_stays_accurate_at_its_keep_ratios(tmp_path: Path) -> None:
    recipe = replace(
        SHORT,
        keep_ratios=(0.3, 0.2),
        dense=Stage(12, 4e-3),
        select=Stage(10, 2e-3, exploration=0.5),
        max_shift=0,
        batch_size=32,
    )
    with Progress(disable=True) as progress:
        trained = train(CONFIG, recipe, striped_patches(640, 2), TEST, tmp_path, progress)
    assert trained.dense_result.top1 >= 0.95 and trained.pruned_result.top1 >= 0.95
    assert trained.pruned_result.macs_ratio < 0.7
    with torch.no_grad():
        ratios = keep_ratios(trained.pruned(torch.from_numpy(TEST.pictures_u8)).keep_masks)
    torch.testing.assert_close(ratios, torch.tensor(recipe.keep_ratios), atol=0.1, rtol=0)


def test_same_seed_gives_the_same_network(tmp_path: Path, reference: Trained) -> None:
    again = run(tmp_path / "again")
    assert same_weights(again.dense, reference.dense) and same_weights(again.pruned, reference.pruned)
    other = run(tmp_path / "other", replace(SHORT, seed=1))
    assert not same_weights(other.dense, reference.dense)


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_interrupted_run_goes_on_exactly(
    tmp_path: Path, reference: Trained, monkeypatch: pytest.MonkeyPatch, epochs_before: int
) -> None:
    epochs = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal epochs
        epochs += 1
        if epochs > epochs_before:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    train_epoch = train_module._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    resumed = run(tmp_path)
    assert same_weights(resumed.dense, reference.dense) and same_weights(resumed.pruned, reference.pruned)
    stages = json.loads((tmp_path / "training.json").read_text())["stages"]
    assert [len(stages[name]) for name in ("dense", "pruned")] == [2, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dense.safetensors",
        "pruned.safetensors",
        "training.json",
    ]


def test_finished_run_only_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path)
    monkeypatch.delattr(train_module, "_train_epoch")
    second = run(tmp_path)
    assert same_weights(first.pruned, second.pruned)
    assert np.array_equal(first.pruned_result.predictions, second.pruned_result.predictions)


def test_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(
        ValueError, match=r"training\.json must be of the same training to be resumed; it differs in recipe"
    ):
        run(tmp_path, replace(SHORT, batch_size=8))
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(ValueError, match=r"training record .* is corrupt"):
        run(tmp_path)


def test_broken_training_state_is_refused(tmp_path: Path, reference: Trained) -> None:
    state = tmp_path / "dense.progress.safetensors"
    state.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"checkpoint .*dense\.progress\.safetensors is corrupt"):
        run(tmp_path)
    save_network(state, reference.dense)
    with pytest.raises(ValueError, match=r"training state .* must hold a history"):
        run(tmp_path)


def test_start_gives_weights_and_normalisation(tmp_path: Path) -> None:
    start = VisionTransformer(CONFIG, Normalisation((0.1,), (0.9,)))
    trained = run(tmp_path, replace(SHORT, dense=Stage(0, 1e-3)), start=start)
    assert torch.equal(trained.dense.blocks[0].attn.qkv.weight, start.blocks[0].attn.qkv.weight)
    assert trained.pruned.normalisation == start.normalisation


def test_network_without_selectors_trains(tmp_path: Path) -> None:
    config, recipe = replace(CONFIG, selectors=()), replace(SHORT, keep_ratios=())
    with Progress(disable=True) as progress:
        trained = train(config, recipe, TRAIN, TEST, tmp_path, progress)
    assert trained.pruned_result.macs_ratio == 1 and not same_weights(trained.dense, trained.pruned)


def test_recipe_must_fit_the_selectors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"keep_ratios must have 2 entries, not \(0\.5,\)"):
        run(tmp_path, replace(SHORT, keep_ratios=(0.5,)))


def test_diverging_training_stops(tmp_path: Path) -> None:
    start = VisionTransformer(CONFIG, Normalisation((0.1,), (0.9,)))
    torch.nn.init.constant_(start.head.weight, float("inf"))
    with pytest.raises(ValueError, match=r"learning_rate of stage dense must be lower: the loss is .* in epoch 0"):
        run(tmp_path, start=start)


def test_8_bit_network_trains_with_the_same_loop(tmp_path: Path, reference: Trained) -> None:
    student = VisionTransformer(CONFIG, reference.pruned.normalisation)
    student.load_state_dict(reference.pruned.state_dict())
    network = QatNetwork.calibrated(student, TRAIN.pictures_u8)
    with Progress(disable=True) as progress:
        share = Run(SHORT, TRAIN, tmp_path, progress, Record.open(tmp_path / "training.json", {}))
        history = fit(share, "8-bit", SHORT.quantize, network, tmp_path / "state.safetensors", reference.dense)
    assert len(history) == 1 and len(history[0]["keep_ratios"]) == 2
    assert np.isfinite(history[0]["loss"]) and not {"divergence", "token"} & set(history[0])
    before, after = reference.pruned.state_dict(), student.state_dict()
    assert all(after[name].isfinite().all() for name in after)
    unmoved = {name for name in after if torch.equal(before[name], after[name])}
    assert unmoved == {f"selectors.{stage}.package_bias" for stage in (0, 1)}  # so short a training prunes nothing


def test_loss_is_the_weighted_sum_of_its_terms(tmp_path: Path) -> None:
    weights = {"class": 0.5, "divergence": 0.25, "regression": 3.0, "token": 2.0, "ratio": 4.0}
    values = SHORT.to_dict() | {f"{term}_weight": weight for term, weight in weights.items()}
    run(tmp_path, Recipe.from_dict(values))
    for epoch in json.loads((tmp_path / "training.json").read_text())["stages"]["pruned"]:
        assert all(epoch[term] > 0 for term in weights)
        assert epoch["loss"] == pytest.approx(sum(weight * epoch[term] for term, weight in weights.items()))


def test_each_teacher_term_is_its_own_loss(reference: Trained) -> None:
    pictures_u8 = torch.from_numpy(TRAIN.pictures_u8[:8])
    with torch.no_grad():
        output, expected = reference.pruned(pictures_u8), reference.dense(pictures_u8)
    terms = train_module._teacher_terms(output, reference.dense, pictures_u8, [0.6, 0.4], torch.mean)
    assert terms["divergence"] == logit_divergence_loss(output.logits, expected.logits)
    assert terms["regression"] == logit_regression_loss(output.logits, expected.logits) != terms["divergence"]


def test_8_bit_networks_follow_logits_and_residuals(reference: Trained) -> None:
    pictures_u8 = torch.from_numpy(TRAIN.pictures_u8[:8])
    output = QatNetwork.calibrated(reference.pruned, TRAIN.pictures_u8)(pictures_u8)
    with torch.no_grad():
        expected = reference.pruned(pictures_u8)
    terms = train_module._teacher_terms(output, reference.pruned, pictures_u8, [0.6, 0.4], torch.mean)
    assert set(terms) == {"regression", "residual", "ratio"} and 0 < terms["residual"].item() < 0.1
    assert terms["residual"] == residual_distillation_loss(output.residuals, expected.residuals)
    for (tokens, live), (_, expected_live) in zip(output.residuals, expected.residuals, strict=True):
        assert tokens.requires_grad and (live == expected_live).float().mean() > 0.9


def test_learning_rate_rises_then_falls() -> None:
    rates = [train_module.warmup_cosine(position / 1000) for position in range(1000)]
    assert 0 < rates[0] < 0.05 and max(rates) == rates[49] > 0.99 and 0 < rates[-1] < 1e-4
    assert rates[:50] == sorted(rates[:50]) and rates[50:] == sorted(rates[50:], reverse=True)


def test_decay_reaches_matrices_only_and_selectors_and_vectors_have_their_rates() -> None:
    network = VisionTransformer(CONFIG, Normalisation((0.1,), (0.9,)))
    names = {id(value): name for name, value in network.named_parameters()}
    groups = train_module._optimizer(network, SHORT, replace(SHORT.select, vector_factor=3.0)).param_groups
    found = {
        names[id(value)]: (group["weight_decay"], group["factor"]) for group in groups for value in group["params"]
    }
    assert found.keys() == set(names.values())
    expected = {
        "cls_token": (0.0, 3.0),
        "pos_embed": (0.0, 3.0),
        "patch_embed.proj.weight": (0.05, 1.0),
        "blocks.0.norm1.weight": (0.0, 3.0),
        "blocks.0.attn.qkv.weight": (0.05, 1.0),
        "blocks.0.attn.qkv.bias": (0.0, 3.0),
        "selectors.0.local.weight": (0.05, 4.0),
        "selectors.0.local.bias": (0.0, 12.0),
    }
    assert {name: found[name] for name in expected} == expected


def test_normalisation_is_measured_per_channel() -> None:
    pixels = np.zeros((4, 2, 8, 8), np.uint8)
    pixels[:, 0, :4] = 255
    pixels[:, 1] = 51
    normalisation = measure_normalisation(PixelPictures(pixels, np.zeros(4, np.int64)))
    assert normalisation.mean == pytest.approx((0.5, 0.2)) and normalisation.std == pytest.approx((0.5, 1 / 255))


def test_threads_are_restored(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    untrained = replace(SHORT.dense, epochs=0)  # more threads than cores are slow
    run(tmp_path, replace(SHORT, num_threads=before + 1, dense=untrained, select=untrained))
    assert torch.get_num_threads() == before
