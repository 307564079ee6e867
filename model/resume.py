"""What makes a training resumable: a record of the run, and the state of the stage in progress after each epoch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from model.checkpoint import check_tensors, read_tensors, write_tensors
from model.files import whole_file

History: TypeAlias = list[dict[str, Any]]
"""One entry per finished epoch of a stage: its mean loss and the keep ratios."""


@dataclass(frozen=True)
class Record:
    """training.json: the description of a run and the history of each finished stage."""

    path: Path
    description: dict[str, Any]
    stages: dict[str, History]

    @classmethod
    def open(cls, path: Path, description: dict[str, Any]) -> Record:
        """Read the record of an earlier start of the same run, or begin one.

        Raises ValueError if the file is corrupt or describes a different run.
        """
        if not path.exists():
            record = cls(path, description, {})
            record.write()
            return record
        try:
            content = json.loads(path.read_text())
            found, stages = content["description"], dict(content["stages"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"training record {path} is corrupt: {error}") from error
        if found != description:
            changed = sorted(name for name in {*found, *description} if found.get(name) != description.get(name))
            raise ValueError(f"{path} must be of the same training to be resumed; it differs in {', '.join(changed)}")
        return cls(path, description, stages)

    def write(self) -> None:
        """Write the file whole or not at all."""
        with whole_file(self.path) as partial:
            partial.write_text(json.dumps({"description": self.description, "stages": self.stages}, indent=1))


def save_progress(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
    """Write the state after an epoch: weights, optimizer moments, history."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    write_tensors(path, tensors, {"history": history})


def load_progress(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    """Restore the state of `save_progress` in place and return the history, whose length is the next epoch.

    Raises ValueError if the file is corrupt or of another network.
    """
    tensors, metadata = read_tensors(path)
    if not isinstance(metadata.get("history"), list):
        raise ValueError(f"training state {path} must hold a history")
    weights = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    check_tensors(weights, network.state_dict(), str(path))
    network.load_state_dict(weights)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    history: History = metadata["history"]
    return history
