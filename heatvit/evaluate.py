"""What quantization costs: a float checkpoint and its integer golden on the same pictures, accuracy and speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from heatvit.files import file_digest
from heatvit.golden import BATCH
from heatvit.integers import CALIBRATION_PICTURES, reconstruct
from heatvit.paired import label_ranks, mcnemar_p, rms_within_pictures
from heatvit.pictures import check_apart, first, load_all, open_pictures
from heatvit.progress import Report, reporter
from model.checkpoint import load_any
from model.config import load_network_config
from model.data import Pictures, batches
from model.inference import infer
from model.vit import IMAGENET, VisionTransformer
from quant.fast_golden import FastGolden
from quant.reference import run as run_golden
from quant.signal_to_noise import signal_to_noise

CHECKED_PICTURES = 2
"""Pictures on which the fast golden is compared with the golden model itself."""
NOISE_PICTURES = 16
"""Calibration pictures that the signal-to-noise ratios are taken over."""
SHOWN_LAYERS = 20
"""Layers of the printed table; the JSON has all."""


@dataclass(frozen=True)
class Settings:
    """What to evaluate: a float checkpoint on pictures, with scales from other pictures.

    network is a topology by name or file, for weights that do not bring their own; count limits the pictures;
    has_noise asks for the signal-to-noise ratio of every layer; device is torch's name of one.
    """

    weights: Path
    images: str
    calibrate: str
    network: str = "deit_tiny"
    count: int | None = None
    has_noise: bool = False
    device: str = "cpu"


@dataclass
class _Side:
    """What one of the two networks did: logits batch by batch, and the seconds it took."""

    run: Callable[[Tensor], Tensor]
    seconds: float = 0.0
    batches: list[NDArray[Any]] = field(default_factory=list)

    def take(self, batch_u8: Tensor) -> None:
        """Run a batch and keep its logits."""
        start = time.perf_counter()
        logits = self.run(batch_u8).cpu()  # waits for the device
        self.seconds += time.perf_counter() - start
        self.batches.append(logits.numpy())

    @property
    def logits(self) -> NDArray[Any]:
        """All logits, (pictures, classes)."""
        return np.concatenate(self.batches)


def evaluate_quantized(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Quantize a checkpoint after training and run it and its integer golden on the same pictures.

    The networks take the batches in turn, so that what else the machine does hits both; the time of reading pictures
    is not counted. Accuracy is None without labels. Raises ValueError if the fast golden is not the golden model, or if
    pictures are to be measured that calibration saw.
    """
    check_apart(settings.images, settings.calibrate)
    report = reporter(progress)
    device = _device(settings.device)
    network = load_any(settings.weights, load_network_config(settings.network), IMAGENET).to(device).eval()
    pictures, is_labelled = open_pictures(settings.images, network.config, settings.count)
    others, _ = open_pictures(settings.calibrate, network.config)
    calibration = first(others, CALIBRATION_PICTURES)
    integer_network, parameters, scales = reconstruct(network, others, progress)
    golden = FastGolden(integer_network, device)
    _check_golden(golden, pictures)
    sides = _run_both(network, golden, pictures, report)
    result: dict[str, Any] = {
        "n": len(pictures.labels),
        **{name: _summary(side, pictures, is_labelled) for name, side in sides.items()},
        **_compare(sides["float"], sides["golden"], pictures, is_labelled),
        "speed_ratio": sides["float"].seconds / sides["golden"].seconds,
        "weights": str(settings.weights),
        "weights_sha256": file_digest(settings.weights),
        "images": settings.images,
        "calibrate": settings.calibrate,
        "calibration_pictures": len(calibration.labels),
        "batch": BATCH,
        "device": settings.device,
        "threads": torch.get_num_threads(),
    }
    if settings.has_noise:
        noise = signal_to_noise(
            parameters,
            integer_network,
            scales,
            network.normalisation.mean,
            network.normalisation.std,
            load_all(first(calibration, NOISE_PICTURES)),
            partial(report, "signal to noise"),
        )
        result["snr"] = [asdict(layer) for layer in noise]
    return result


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the second where it was built without the device
        raise ValueError(f"device must be one that torch has here, not {name!r}: {error}") from error
    return device


def _check_golden(golden: FastGolden, pictures: Pictures) -> None:
    """Compare the fast golden with the golden model on the first pictures."""
    pictures_u8 = load_all(first(pictures, CHECKED_PICTURES))
    logits_i16 = golden.run(torch.from_numpy(pictures_u8)).logits_i16.cpu().numpy()
    expected = np.stack([run_golden(golden.network, picture_u8, taps=False).logits_i16 for picture_u8 in pictures_u8])
    if not np.array_equal(logits_i16, expected):
        raise ValueError(
            f"the fast golden differs from the golden model on {golden.device}: its products are not exact"
        )


def _run_both(network: VisionTransformer, golden: FastGolden, pictures: Pictures, report: Report) -> dict[str, _Side]:
    """Run all pictures through both networks, batch by batch in changing order, after one batch that is not timed.

    The float network computes softmax and GELU as it did in training.
    """
    sides = {
        "float": _Side(lambda batch_u8: infer(network, batch_u8.to(golden.device), network.kernels).logits),
        "golden": _Side(lambda batch_u8: golden.run(batch_u8).logits_i16 * golden.network.logit_scale),
    }
    warm_up_u8 = torch.from_numpy(load_all(first(pictures, BATCH)))
    for side in sides.values():
        side.run(warm_up_u8)
    done, total = 0, len(pictures.labels)
    for number, (batch_u8, labels) in enumerate(batches(pictures, BATCH)):
        for side in sorted(sides.values(), key=lambda side: side is sides["golden"], reverse=number % 2 == 1):
            side.take(torch.from_numpy(batch_u8))
        done += len(labels)
        report("evaluate", done, total)
    return sides


def _summary(side: _Side, pictures: Pictures, is_labelled: bool) -> dict[str, Any]:
    ranks = label_ranks(side.logits, pictures.labels) if is_labelled else None
    return {
        "top1": None if ranks is None else float((ranks < 1).mean()),
        "top5": None if ranks is None else float((ranks < 5).mean()),
        "images_per_s": len(pictures.labels) / side.seconds,
    }


def _compare(floats: _Side, golden: _Side, pictures: Pictures, is_labelled: bool) -> dict[str, Any]:
    """Compare the two networks picture by picture.

    relative_error is the root mean square of the logits' difference over that of the float ones, both less their mean
    over the classes of a picture; it changes smoothly where agreement jumps by pictures.
    """
    relative_error = rms_within_pictures(golden.logits - floats.logits) / rms_within_pictures(floats.logits)
    chosen = [side.logits.argmax(axis=1) for side in (floats, golden)]
    agreement = float((chosen[0] == chosen[1]).mean())
    if not is_labelled:
        return {"agreement": agreement, "relative_error": relative_error}
    is_right = [classes == pictures.labels for classes in chosen]
    float_only, golden_only = (int((mine & ~other).sum()) for mine, other in (is_right, is_right[::-1]))
    return {
        "agreement": agreement,
        "relative_error": relative_error,
        "mcnemar": {"float_only": float_only, "golden_only": golden_only, "p": mcnemar_p(float_only, golden_only)},
    }


def noise_rows(noise: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the lines of a table of the worst layers."""
    return [(layer["name"], f"{layer['snr_db']:.1f}", f"{layer['rounding_db']:.1f}") for layer in noise[:SHOWN_LAYERS]]
