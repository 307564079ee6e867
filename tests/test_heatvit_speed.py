"""Software speed.

Testpoints: the command measures both networks at both batches and writes the same as JSON; token counts that do not fit
the topology, or are no numbers, are refused in one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heatvit import cli
from model.config import NETWORKS
from model.evaluate import macs

TINY = NETWORKS["test_tiny"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_command_measures_both_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed.json"
    assert cli.main(["bench", "torch", "--network=test_tiny", "--tokens=9,5", f"--json={path}"]) == 0
    result = json.loads(path.read_text())
    assert result["tokens"] == [17, 9, 5]
    assert result["gmac_dense"] == macs(replace(TINY, selectors=()), ()) / 1e9
    assert result["gmac_pruned"] == macs(TINY, (9, 5)) / 1e9
    for batch in ("batch_1", "batch_32"):
        speeds = result[batch]
        assert speeds["dense_images_per_s"] > 0 and speeds["pruned_images_per_s"] > 0
        assert speeds["speedup"] == speeds["pruned_images_per_s"] / speeds["dense_images_per_s"]
    assert "batch_32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("9", "must be 2 counts in 2..17"),
        ("9,1", "must be 2 counts in 2..17, none above the one before, not [9, 1]"),
        ("9,x", "--tokens must be whole"),
    ],
)
def test_wrong_token_counts_are_refused(tokens: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "torch", "--network=test_tiny", f"--tokens={tokens}"]) == 2
    assert message in capsys.readouterr().err
