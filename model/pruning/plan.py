"""What a latency-aware training is asked for: one frozen object that one file holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.pruning.insertion import InsertionRule
from model.recipe import Recipe, Stage, read_settings


@dataclass(frozen=True)
class PruningPlan:
    """How to put selectors into a trained network and train them under latency limits.

    network is a topology by name or file, without regard to its selectors; weights a checkpoint without selectors, of
    heatvit train or with timm's names; images pictures to train with, by a word of heatvit's --images, of which the
    first held_out only judge; both are paths from where the training starts. accelerator names the config whose cycle
    model gives the latency table; limits are its cycles a picture, falling, and each gives a network that starts from
    the one before. warm_start trains the candidate selectors, recipe.select each network, recipe.quantize each in 8
    bits; the recipe's keep ratios are found, not given. Without has_package pruned tokens leave no package token (an
    ablation: the integer network always has one). processes of this machine share each batch, unless torchrun started
    the training: their number changes the order of sums.
    """

    network: str
    weights: str
    images: str
    held_out: int
    accelerator: str
    limits: tuple[float, ...]
    insertion: InsertionRule
    warm_start: Stage
    recipe: Recipe
    has_package: bool = True
    processes: int = 1

    def __post_init__(self) -> None:
        if not self.limits or list(self.limits) != sorted(set(self.limits), reverse=True) or self.limits[-1] <= 0:
            raise ValueError(f"limits must be falling positive numbers of cycles, not {self.limits!r}")
        for name in ("held_out", "processes"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        insertion = {**asdict(self.insertion), "max_divergence": list(self.insertion.max_divergence)}
        return {
            **asdict(self),
            "limits": list(self.limits),
            "insertion": insertion,
            "recipe": self.recipe.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PruningPlan:
        """Build a plan from plain types. Raises ValueError naming an unknown, missing or wrong field."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown training field {unknown[0]!r}, allowed: {', '.join(sorted(known))}")
        try:
            # There is no dense stage, and the ratios are not known yet.
            recipe = Recipe.from_dict({"keep_ratios": [], "dense": asdict(NO_STAGE), **values["recipe"]})
            insertion = {**values["insertion"], "max_divergence": tuple(values["insertion"]["max_divergence"])}
            return cls(
                **{
                    **values,
                    "recipe": recipe,
                    "limits": tuple(values["limits"]),
                    "insertion": InsertionRule(**insertion),
                    "warm_start": Stage(**values["warm_start"]),
                }
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"training file is incomplete or has a value of a wrong type: {error}") from error


NO_STAGE = Stage(epochs=0, learning_rate=1e-3)


def load_plan(path: Path) -> PruningPlan:
    """Read a plan from a .toml or .json file. Raises ValueError naming what is wrong."""
    return PruningPlan.from_dict(read_settings(path))
