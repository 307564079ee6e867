"""Several processes that train as one.

Testpoints: two processes of torchrun find the mean of a batch with its gradient, the rows they shared out, the files of
the main process and what it decides, the gradients of the whole batch for the float and the 8-bit network (also with a
share of nothing), the evaluation of one process, and do not wait forever for one that stays away; a process alone needs
none of that; a batch that cannot be shared out evenly and a missing device are refused.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import nn
from two_processes import ROOT, run_two_processes

from model.data import PixelPictures
from model.distributed import ALONE, Processes, open_processes
from model.recipe import RECIPES
from model.resume import Record
from model.train import Run, fit


@pytest.mark.slow
@pytest.mark.parametrize("checks", ["together", "absence"])
def test_two_processes_find_what_one_does(checks: str, tmp_path: Path) -> None:
    """The checks are in distributed_checks.py, where each process makes them for itself."""
    result = run_two_processes(ROOT / "tests" / "distributed_checks.py", checks, tmp_path)
    assert result.returncode == 0, result.stderr


def test_process_alone_has_everything() -> None:
    rows, network = np.arange(6).reshape(3, 2), nn.Linear(1, 1)
    assert ALONE.is_main and ALONE.replicate(network) is network
    assert np.array_equal(ALONE.share(rows), rows) and ALONE.collect(rows) is rows
    assert ALONE.mean(torch.tensor([1.0, 2.0])).item() == 1.5 and ALONE.from_main(rows) is rows
    assert ALONE.mean((torch.arange(1000) < 701).bfloat16()).item() == pytest.approx(0.701)  # 0.703 in 8 bits
    with ALONE.main_first(), open_processes() as processes:
        assert processes == ALONE


def test_shares_are_disjoint_and_complete() -> None:
    places = [Processes(rank, 3) for rank in range(3)]
    assert [place.is_main for place in places] == [True, False, False]
    shares = [place.share(np.arange(8)) for place in places]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert sorted(np.concatenate(shares).tolist()) == list(range(8))


def test_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    pictures = PixelPictures(np.zeros((4, 1, 28, 28), np.uint8), np.zeros(4, np.int64))
    recipe, record = RECIPES["digits"], Record(tmp_path / "training.json", {}, {})
    run = Run(recipe, pictures, tmp_path, Progress(disable=True), record, Processes(1, 3))
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, not 32"):
        fit(run, "dense", recipe.dense, nn.Linear(1, 1), tmp_path / "state")


def test_wrong_and_missing_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, not 'tpu'"), open_processes("tpu"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device cuda must have one device per process"), open_processes("cuda"):
        pass
