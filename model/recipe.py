"""Training recipes: every choice of a training run, in one frozen object that a file can hold."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("float32", "bfloat16")
FILE_KINDS = (".json", ".toml")
LOSS_WEIGHTS = tuple(f"{term}_weight" for term in ("class", "divergence", "regression", "token", "residual", "ratio"))


@dataclass(frozen=True)
class Stage:
    """Length and peak learning rate of one training stage; 0 epochs skips its training.

    exploration is the share of the stage over which the selectors' Gumbel noise fades from 1 to 0 and their keep
    target falls from 1 to its final value. Biases, LayerNorm vectors and embeddings learn with vector_factor times the
    rate of matrices.
    """

    epochs: int
    learning_rate: float
    exploration: float = 0.0
    vector_factor: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 0:
            raise ValueError(f"epochs must be an integer of at least 0, not {self.epochs!r}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must be between 0 and 1, not {self.learning_rate!r}")
        if not 0 <= self.exploration <= 1:
            raise ValueError(f"exploration must be in 0..1, not {self.exploration!r}")
        if not self.vector_factor >= 0:
            raise ValueError(f"vector_factor must be at least 0, not {self.vector_factor!r}")


@dataclass(frozen=True)
class Recipe:
    """How to train: a dense network, then its selectors, then the 8-bit network.

    keep_ratios is the target share of the picture's patches after each selector, not increasing. The selectors learn
    with selector_factor times the stage's learning rate. Augmentation (model/augment.py): max_shift in pixels;
    min_crop, the least share of a picture's area that is cut out and enlarged, 1 for none; is_flipped mirrors half.
    class_weight scales the loss of the labels, which are not needed where it is 0; divergence_weight,
    regression_weight and token_weight the distillation of a float network, by classes, by logits and by tokens;
    regression_weight and residual_weight that of a network in 8 bits, by logits and by what leaves every block;
    ratio_weight the keep-ratio loss (model/losses.py). precision is that of a float network's products, float32 or
    bfloat16.
    A seed repeats a training exactly for the same num_threads of torch on the same machine.
    """

    keep_ratios: tuple[float, ...]
    dense: Stage
    select: Stage
    quantize: Stage
    seed: int = 0
    num_threads: int = 1
    batch_size: int = 64
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    max_shift: int = 0
    min_crop: float = 1.0
    is_flipped: bool = False
    precision: str = "float32"
    selector_factor: float = 4.0
    class_weight: float = 1.0
    divergence_weight: float = 0.5
    regression_weight: float = 0.5
    token_weight: float = 0.5
    residual_weight: float = 0.0
    ratio_weight: float = 2.0

    def __post_init__(self) -> None:
        ratios = self.keep_ratios
        if not all(0 < ratio <= 1 for ratio in ratios) or list(ratios) != sorted(ratios, reverse=True):
            raise ValueError(f"keep_ratios must be in (0, 1] and not increase, not {ratios!r}")
        for name, least in (("seed", 0), ("max_shift", 0), ("num_threads", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        for name, allowed in (("precision", PRECISIONS), ("is_flipped", (False, True))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        for name in ("weight_decay", "selector_factor", *LOSS_WEIGHTS):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        if not 0 < self.min_crop <= 1:
            raise ValueError(f"min_crop must be above 0 and at most 1, not {self.min_crop!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "keep_ratios": list(self.keep_ratios)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Inverse of to_dict. Raises ValueError naming an unknown, missing or wrong field."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown recipe field {unknown[0]!r}, allowed: {', '.join(sorted(known))}")
        try:
            stages = {name: Stage(**values[name]) for name in ("dense", "select", "quantize")}
            ratios = tuple(values["keep_ratios"])
            return cls(**{**values, **stages, "keep_ratios": ratios})
        except (TypeError, KeyError) as error:
            raise ValueError(f"recipe is incomplete or has a value of a wrong type: {error}") from error


RECIPES: dict[str, Recipe] = {
    # Three to four minutes on one core; the keep ratios give a little over half of the dense multiply-accumulates. Long
    # exploration drives scores away from the threshold: after half a stage of it they sit within a few 8-bit codes of
    # 0.5, and rounding alone changes who is kept (top-1 0.94 instead of 0.98 before fine-tuning in 8 bits).
    "digits": Recipe(
        keep_ratios=(0.48, 0.22),
        dense=Stage(epochs=40, learning_rate=3e-3),
        select=Stage(epochs=16, learning_rate=1e-3, exploration=0.9),
        quantize=Stage(epochs=3, learning_rate=1e-4),
        batch_size=32,
        max_shift=2,
    ),
    # Nine trainings with 50,000 pictures in about half an hour of one core, compiled: not converged, but equally far.
    "delta_study": Recipe(
        keep_ratios=(),
        dense=Stage(epochs=4, learning_rate=2e-3),
        select=Stage(epochs=0, learning_rate=1e-3),
        quantize=Stage(epochs=0, learning_rate=1e-4),
        batch_size=50,
        max_shift=2,
    ),
}


def load_recipe(name_or_path: str) -> Recipe:
    """Return a named recipe, or read one from a .json or .toml file. Raises ValueError naming what is wrong."""
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]
    path = Path(name_or_path)
    if path.suffix not in FILE_KINDS or not path.is_file():
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)} or a .json or .toml file, not {name_or_path!r}")
    return Recipe.from_dict(read_settings(path))


def read_settings(path: Path) -> dict[str, Any]:
    """Return what a .json or .toml file says. Raises ValueError naming the file."""
    if path.suffix not in FILE_KINDS or not path.is_file():
        raise ValueError(f"settings must be a .json or .toml file that exists, not {str(path)!r}")
    try:
        values = _parse(path.suffix, path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"settings file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"settings file {str(path)!r} must hold an object")
    return values


def _parse(suffix: str, text: str) -> Any:
    return json.loads(text) if suffix == ".json" else tomllib.loads(text)
