"""Recipes and named networks.

Testpoints: named objects load by name; JSON and TOML files give what their dictionary gives; every field is checked
and named in the error; unknown names, wrong suffixes and unreadable files are refused; recipes fit their
networks.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from model.config import NETWORKS, load_network_config
from model.recipe import RECIPES, Recipe, load_recipe

DIGITS = RECIPES["digits"].to_dict()
TOML = """
keep_ratios = [0.5, 0.25]
batch_size = 16
dense = {epochs = 2, learning_rate = 1e-3}
[select]
epochs = 3
learning_rate = 1e-4
exploration = 0.5
[quantize]
epochs = 0
learning_rate = 1e-5
"""


def test_digits_recipe_fits_its_network() -> None:
    recipe, config = load_recipe("digits"), load_network_config("digits")
    assert len(recipe.keep_ratios) == len(config.selectors)
    assert config.embed_dim % 16 == config.mlp_hidden % 16 == 0


def test_delta_study_recipe_trains_a_dense_network() -> None:
    recipe, config = load_recipe("delta_study"), load_network_config("cifar10")
    assert recipe.keep_ratios == config.selectors == () and recipe.dense.epochs > recipe.select.epochs == 0
    assert config.num_patches == 64 and config.head_dim % 16 == config.mlp_hidden % 16 == 0


def test_named_networks_are_the_papers() -> None:
    assert NETWORKS["deit_small"].selectors == (3, 6, 9) and NETWORKS["deit_base"].head_dim == 64


def test_recipe_survives_a_round_trip(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(DIGITS))
    assert load_recipe(str(tmp_path / "recipe.json")) == RECIPES["digits"]


def test_network_survives_a_round_trip(tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(json.dumps(NETWORKS["digits"].to_dict()))
    assert load_network_config(str(tmp_path / "net.json")) == NETWORKS["digits"]


def test_toml_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(TOML)
    recipe = load_recipe(str(tmp_path / "recipe.toml"))
    assert recipe.batch_size == 16 and recipe.select.epochs == 3 and recipe.select.exploration == 0.5
    assert recipe.dense.learning_rate == 1e-3 and recipe.keep_ratios == (0.5, 0.25) and recipe.seed == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"keep_ratios": [0.2, 0.5]}, r"keep_ratios must be in \(0, 1\] and not increase, not \(0\.2, 0\.5\)"),
        ({"keep_ratios": [0.0]}, "keep_ratios must be in"),
        ({"keep_ratios": None}, "recipe is incomplete or has a value of a wrong type"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, not 0"),
        ({"batch_size": 1.5}, r"batch_size must be an integer of at least 1, not 1\.5"),
        ({"num_threads": 0}, "num_threads must be an integer of at least 1, not 0"),
        ({"min_crop": 0}, "min_crop must be above 0 and at most 1, not 0"),
        ({"min_crop": 1.5}, r"min_crop must be above 0 and at most 1, not 1\.5"),
        ({"max_shift": -1}, "max_shift must be an integer of at least 0, not -1"),
        ({"weight_decay": -0.1}, r"weight_decay must be at least 0, not -0\.1"),
        ({"residual_weight": -1}, "residual_weight must be at least 0, not -1"),
        (
            {"dense": {"epochs": 1, "learning_rate": 0.1, "vector_factor": -1}},
            "vector_factor must be at least 0, not -1",
        ),
        ({"ratio_weight": "2"}, "recipe is incomplete or has a value of a wrong type"),
        ({"label_smoothing": 1}, "label_smoothing must be at least 0 and below 1, not 1"),
        ({"dense": {"epochs": -1, "learning_rate": 0.1}}, "epochs must be an integer of at least 0, not -1"),
        ({"dense": {"epochs": 1, "learning_rate": 0}}, "learning_rate must be between 0 and 1, not 0"),
        ({"select": {"epochs": 1, "learning_rate": 0.1, "exploration": 2}}, r"exploration must be in 0\.\.1, not 2"),
        ({"dense": {"epochs": 1}}, "recipe is incomplete or has a value of a wrong type"),
        ({"dense": 3}, "recipe is incomplete or has a value of a wrong type"),
        ({"momentum": 1}, "unknown recipe field 'momentum', allowed: batch_size"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({**DIGITS, **change})


@pytest.mark.parametrize("name", list(DIGITS)[:4])
def test_missing_fields_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="recipe is incomplete"):
        Recipe.from_dict({key: value for key, value in DIGITS.items() if key != name})


@pytest.mark.parametrize(
    "load, word, kind", [(load_recipe, "recipe", "settings"), (load_network_config, "network", "network")]
)
def test_unreadable_files_are_refused(tmp_path: Path, load: Any, word: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"{word} must be one of digits.* file, not 'cifar'"):
        load("cifar")
    with pytest.raises(ValueError, match=f"{word} must be one of"):
        load(str(tmp_path / "missing.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{kind} file .*broken\.json"):
        load(str(tmp_path / "broken.json"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match=f"{kind} file .* must hold a"):
        load(str(tmp_path / "list.json"))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"{kind} file .*bytes\.json"):
        load(str(tmp_path / "bytes.json"))
