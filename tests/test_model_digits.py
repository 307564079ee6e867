"""The demo's recipe on the embedded digits, in full.

Testpoints: the dense network reaches 96 % on held-out pictures; with selectors it loses at most one point for at most
65 % of the multiply-accumulates; pictures keep different numbers of tokens; the integer network after its fine-tuning
is as good as the float one.
"""

from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from model.config import NETWORKS
from model.data import load_pictures, split_pictures
from model.evaluate import evaluate
from model.qat import QatNetwork
from model.recipe import RECIPES
from model.resume import Record
from model.train import Run, fit, train


@pytest.mark.slow
def test_digits_recipe_reaches_its_numbers(tmp_path: Path) -> None:
    config, recipe = NETWORKS["digits"], RECIPES["digits"]
    train_pictures, test_pictures = split_pictures(load_pictures("digits", config), 0.2, seed=0)
    assert len(test_pictures.labels) >= 300
    with Progress(disable=True) as progress:
        trained = train(config, recipe, train_pictures, test_pictures, tmp_path, progress)
        network = QatNetwork.calibrated(trained.pruned, train_pictures.load(np.arange(128)))
        run = Run(recipe, train_pictures, tmp_path, progress, Record.open(tmp_path / "8-bit.json", {}))
        fit(run, "8-bit", recipe.quantize, network, tmp_path / "8-bit.safetensors", trained.dense)
    least = max(0.96, trained.dense_result.top1 - 0.01)
    for result in (trained.pruned_result, evaluate(network, config, test_pictures)):
        print(f"top-1 {trained.dense_result.top1:.4f} -> {result.top1:.4f}, MACs {result.macs_ratio:.3f}")
        assert result.top1 >= least
        assert result.macs_ratio <= 0.65
        assert all(len(set(counts.tolist())) > 1 for counts in result.num_tokens.T)
