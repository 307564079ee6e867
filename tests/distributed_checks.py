"""What two processes of torchrun must find, each for itself: test_model_distributed.py starts them.

Arguments: together or absence, and a folder. Ends with an error where a check fails.
"""

import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor, nn

from model.config import NETWORKS
from model.data import PixelPictures
from model.distributed import ALONE, Processes, open_processes
from model.evaluate import evaluate
from model.losses import (
    class_loss,
    keep_ratio_loss,
    logit_divergence_loss,
    logit_regression_loss,
    residual_distillation_loss,
    token_distillation_loss,
)
from model.pruning import train as pruning
from model.pruning.insertion import InsertionRule
from model.pruning.plan import PruningPlan
from model.qat import QatNetwork
from model.recipe import Recipe, Stage
from model.resume import History, Record
from model.selector import gumbel_noise
from model.train import Run
from model.vit import Normalisation, VisionTransformer

CONFIG = NETWORKS["test_tiny"]
TIMEOUT = timedelta(seconds=15)


def check_mean(processes: Processes) -> None:
    """The mean of all values, and the gradient of its square, although one process has none of the values."""
    whole = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    (expected,) = torch.autograd.grad(whole.mean().square(), whole)
    own = whole if processes.is_main else whole[:0]
    mean = processes.mean(own)
    assert mean.item() == 3
    (gradient,) = torch.autograd.grad(mean.square(), whole, allow_unused=True)
    assert torch.equal(gradient / processes.size, expected if processes.is_main else torch.zeros(3))
    ones = (torch.arange(1000) < 701).bfloat16()
    assert processes.mean(processes.share(ones)).item() == np.float32(0.701)


def check_collect(processes: Processes) -> None:
    """What was shared out comes back in its order, also where the processes have different numbers of rows."""
    for batch in (np.arange(10).reshape(5, 2), np.zeros((1, 0), np.int64)):
        found = processes.collect(processes.share(batch))
        assert np.array_equal(found, batch) and found.dtype == batch.dtype and found.shape == batch.shape


def check_main_first(processes: Processes, file: Path) -> None:
    """The others find the file that the main process takes its time to make."""
    with processes.main_first():
        if processes.is_main:
            time.sleep(0.5)
            file.write_text("made")
        assert file.read_text() == "made"


def check_from_main(processes: Processes) -> None:
    """What the processes have of their own becomes what the main one has."""
    assert processes.from_main({"block": 3 + processes.rank}) == {"block": 3}


def check_pruning(processes: Processes, dense: VisionTransformer, folder: Path) -> None:
    """Both processes go on with the candidates and the plan of the main one, also where they found others."""
    stage = Stage(1, 1e-3)
    recipe = Recipe((), stage, stage, stage)
    plan = PruningPlan("", "", "", 1, "", (1.0,), InsertionRule(1, (0.5,), 0.01), stage, recipe)
    pictures = PixelPictures(np.zeros((4, 1, 16, 16), np.uint8), np.zeros(4, np.int64))
    record = Record(folder / "training.json", {}, {})
    run = Run(recipe, pictures, folder, Progress(disable=True), record, processes)

    def drift(
        run: Run, plan: PruningPlan, dense: VisionTransformer, network: VisionTransformer, state: Path
    ) -> History:
        network.selectors[0].token1.bias.data.fill_(1 + processes.rank)
        return [{"loss": 0.0}]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "_train_candidates", drift)
        patch.setattr(pruning, "insert_selectors", lambda *arguments: {1 + processes.rank: 0.5})
        candidates = pruning._warm_start(run, plan, dense)
        keep = pruning._insert(run, plan, SimpleNamespace(candidates=candidates), None, 1.0)
    assert candidates.selectors[0].token1.bias.eq(1).all() and keep == {1: 0.5}
    assert {"warm start", "insertion 1"} == set(record.stages) and (folder / "training.json").exists()


def check_gradients(processes: Processes, network: nn.Module, teacher: VisionTransformer, batch_size: int) -> None:
    """Both processes get the gradients of the whole batch, from all terms of the loss."""
    torch.manual_seed(batch_size)
    pictures_u8 = torch.randint(0, 256, (batch_size, 1, 16, 16), dtype=torch.uint8)
    labels = torch.randint(0, 3, (batch_size,))
    noise = gumbel_noise(batch_size, 2, CONFIG.num_tokens) if isinstance(network, VisionTransformer) else None

    def gradients(share: Processes, module: nn.Module) -> list[Tensor]:
        network.zero_grad()
        inputs = [share.share(rows) for rows in (pictures_u8, noise) if rows is not None]
        with torch.no_grad():
            expected = teacher(inputs[0])
        output = module(*inputs)
        loss = class_loss(output.logits, share.share(labels), 0.1, share.mean)
        loss = loss + logit_divergence_loss(output.logits, expected.logits, share.mean)
        loss = loss + logit_regression_loss(output.logits, expected.logits, share.mean)
        loss = loss + residual_distillation_loss(output.residuals, expected.residuals, share.mean)
        loss = loss + keep_ratio_loss(output.keep_masks, (0.5, 0.2), share.mean)
        if noise is not None:
            loss = loss + token_distillation_loss(output.tokens, expected.tokens, output.keep_masks[-1], share.mean)
        torch.autograd.backward(loss)
        return [loss.detach(), *(value.grad for value in network.parameters() if value.grad is not None)]

    expected = gradients(ALONE, network)
    found = gradients(processes, processes.replicate(network))
    assert len(found) == len(expected) == 1 + len(list(network.parameters()))
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def check_evaluation(processes: Processes, network: VisionTransformer) -> None:
    """Pictures that are shared out give the result of one process, in every process."""
    rng = np.random.default_rng(0)
    pictures = PixelPictures(rng.integers(0, 256, (7, 1, 16, 16), np.uint8), rng.integers(0, 3, 7))
    alone, together = (evaluate(network, CONFIG, pictures, 2, place) for place in (ALONE, processes))
    assert np.array_equal(alone.predictions, together.predictions)
    assert np.array_equal(alone.num_tokens, together.num_tokens) and alone.top1 == together.top1


def meet(folder: Path) -> None:
    """Wait until both processes are here: on a loaded machine one may start seconds after the other."""
    signs = [folder / f"here_{rank}" for rank in range(2)]
    signs[int(os.environ["RANK"])].touch()
    while not all(sign.exists() for sign in signs):
        time.sleep(0.01)


def absence(folder: Path) -> None:
    """A process does not wait forever for one that lives and stays away."""
    meet(folder)
    has_given_up = folder / "has_given_up"
    with open_processes(timeout=TIMEOUT) as processes:
        if not processes.is_main:
            while not has_given_up.exists():
                time.sleep(0.1)
            return
        start = time.monotonic()
        with pytest.raises(RuntimeError):
            processes.mean(torch.ones(1))
        assert time.monotonic() - start < 2 * TIMEOUT.total_seconds()
        has_given_up.touch()


def together(folder: Path) -> None:
    """What is shared out and found by both is what one process finds."""
    with open_processes() as processes:
        assert processes.size == 2
        check_mean(processes)
        check_collect(processes)
        check_main_first(processes, folder / "made")
        check_from_main(processes)
        torch.manual_seed(0)
        network = VisionTransformer(CONFIG, Normalisation((0.5,), (0.3,)))
        teacher = VisionTransformer(replace(CONFIG, selectors=()), network.normalisation)
        integers = QatNetwork.calibrated(network, np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16), np.uint8))
        for batch_size in (8, 5, 1):  # of the last one, the second process gets nothing
            check_gradients(processes, network, teacher, batch_size)
            check_gradients(processes, integers, teacher, batch_size)
        check_evaluation(processes, network)
        check_pruning(processes, teacher, folder)


if __name__ == "__main__":
    {"together": together, "absence": absence}[sys.argv[1]](Path(sys.argv[2]))
    os._exit(0)  # threads of gloo outlive DistributedDataParallel and may abort a usual end
