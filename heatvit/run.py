"""Run a network on a device: one program for machine, RTL and board, compared with the golden model where known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitstreams.accelerator import Accelerator, Prediction
from bitstreams.compiled import CompiledNetwork
from bitstreams.driver import AcceleratorError, WrongCoreError
from bitstreams.manifest import MANIFEST_NAME, Manifest
from heatvit.compiled import UNKNOWN_LABEL, compile_for_board, make_samples
from heatvit.devices import DeviceKind, OpenDevice, open_device
from heatvit.files import file_digest
from heatvit.flow import is_integer_network
from heatvit.pictures import open_pictures
from heatvit.progress import Report
from hw.config import AccelConfig, load_config
from model.data import Pictures, PixelPictures
from quant.network import IntegerNetwork
from quant.network_file import load_network

SAMPLES = "samples"
"""In place of a source of pictures: those that lie in the compiled network."""

DEFAULT_CONFIG = "demo"

CHUNK = 16
"""Pictures that are decoded at once; the driver works on them without a gap."""


@dataclass(frozen=True)
class RunSettings:
    """What to run, and on what; names and paths as on the command line. None: not given."""

    network_file: Path
    kind: DeviceKind
    images: str
    count: int | None
    config_name: str | None
    bitstream: Path | None
    work: Path


@dataclass(frozen=True)
class _Subject:
    """A compiled network, and the integer network that it was made from, if that is at hand."""

    compiled: CompiledNetwork
    integers: IntegerNetwork | None


def run_network(settings: RunSettings, report: Report) -> dict[str, Any]:
    """Run pictures on a device; return what each gave, and how many pictures differ from the golden model.

    mismatches is None where no golden is known: a compiled network on pictures that are not its own. A run that the
    core ends with an error, or that does not end, is `failure`. Raises ValueError or OSError for everything that does
    not fit together: network, config, bitstream, device, pictures.
    """
    subject = _load(settings)
    pictures, is_labelled = _pictures(settings, subject.compiled)
    if not len(pictures.labels):
        raise ValueError("there is no picture to run")
    rows: list[dict[str, Any]] = []
    failure, start = None, time.monotonic()
    with open_device(settings.kind, subject.compiled.config, settings.bitstream, settings.work, report) as device:
        try:
            with _open(device, subject.compiled) as accelerator:
                start = time.monotonic()
                for chunk, predictions in _predict(accelerator, pictures, report):
                    rows += _rows(settings, subject, chunk, predictions, pictures, is_labelled)
        except WrongCoreError as error:
            raise ValueError(str(error)) from error
        except (AcceleratorError, TimeoutError) as error:
            failure = str(error)
    return {
        "device": settings.kind.value,
        "network": str(settings.network_file),
        "network_sha256": file_digest(settings.network_file),
        "config_hash": f"0x{subject.compiled.config.hash32:08x}",
        "seconds": round(time.monotonic() - start, 3),
        "failure": failure,
        **_summary(rows, subject.compiled, settings.kind),
        "pictures": rows,
    }


def _load(settings: RunSettings) -> _Subject:
    """Return the network, compiled for the accelerator that is asked for."""
    config = _config(settings)
    if is_integer_network(settings.network_file):
        integers = load_network(settings.network_file)
        return _Subject(compile_for_board(integers, config or load_config(DEFAULT_CONFIG)), integers)
    compiled = CompiledNetwork.load(settings.network_file)
    if config not in (None, compiled.config):
        raise ValueError(f"{settings.network_file} was compiled for another accelerator than the one asked for")
    return _Subject(compiled, None)


def _config(settings: RunSettings) -> AccelConfig | None:
    """Return the config that --config or --bitstream names, None without either."""
    if settings.config_name is not None and settings.bitstream is not None:
        raise ValueError("give either --config or --bitstream: a bitstream's manifest names its config")
    if settings.bitstream is not None:
        return Manifest.load(settings.bitstream.with_name(MANIFEST_NAME)).config
    return None if settings.config_name is None else load_config(settings.config_name)


def _pictures(settings: RunSettings, compiled: CompiledNetwork) -> tuple[Pictures, bool]:
    if settings.images != SAMPLES:
        return open_pictures(settings.images, compiled.network_config, settings.count)
    if compiled.samples is None:
        raise ValueError(f"{settings.network_file} holds no samples: heatvit compile --images stores some")
    chosen = slice(settings.count)
    labels = compiled.samples.labels[chosen]
    return PixelPictures(compiled.samples.pictures_u8[chosen], labels), bool((labels != UNKNOWN_LABEL).all())


def _open(device: OpenDevice, compiled: CompiledNetwork) -> AbstractContextManager[Accelerator]:
    """Return the context of an accelerator; PYNQ is imported here and not before it is known to be there."""
    from bitstreams.pynq_driver import open_accelerator

    return open_accelerator(
        device.bitstream,
        compiled,
        device=device.device,
        timeout_s=device.timeout_s,
        watchdog_cycles=device.watchdog_cycles,
    )


def _predict(
    accelerator: Accelerator, pictures: Pictures, report: Report
) -> Iterator[tuple[NDArray[np.int64], list[Prediction]]]:
    """Yield (numbers of the pictures, predictions), some pictures at a time."""
    total = len(pictures.labels)
    report("run", 0, total)
    for first in range(0, total, CHUNK):
        chunk = np.arange(first, min(first + CHUNK, total))
        yield chunk, accelerator.predict(pictures.load(chunk))
        report("run", int(chunk[-1]) + 1, total)


def _rows(
    settings: RunSettings,
    subject: _Subject,
    chunk: NDArray[np.int64],
    predictions: list[Prediction],
    pictures: Pictures,
    is_labelled: bool,
) -> list[dict[str, Any]]:
    """Return what is known of some pictures as plain JSON types."""
    golden = None
    if subject.integers is not None:
        golden = make_samples(subject.integers, pictures.load(chunk), pictures.labels[chunk])
        places = range(len(chunk))
    elif settings.images == SAMPLES:
        golden, places = subject.compiled.samples, range(int(chunk[0]), int(chunk[-1]) + 1)
    rows = []
    for index, (number, prediction) in enumerate(zip(chunk.tolist(), predictions, strict=True)):
        is_exact = None
        if golden is not None:
            has_logits = np.array_equal(golden.logits_i16[places[index]], prediction.logits_i16)
            is_exact = has_logits and golden.num_tokens[places[index]].tolist() == list(prediction.token_counts)
        rows.append(
            {
                "picture": number,
                "label": int(pictures.labels[number]) if is_labelled else None,
                "predicted": prediction.label,
                "logits": prediction.logits_i16.tolist(),
                "token_counts": list(prediction.token_counts),
                "kept_patches": prediction.kept_patches(subject.compiled.network_config.num_patches).tolist(),
                "cycles": None if settings.kind is DeviceKind.MACHINE else prediction.run.cycles,
                "equals_golden": is_exact,
            }
        )
    return rows


def _summary(rows: list[dict[str, Any]], compiled: CompiledNetwork, kind: DeviceKind) -> dict[str, Any]:
    """Return means and counts over the pictures that were run, None where there is nothing to count."""
    summary: dict[str, Any] = {"images": len(rows), "num_tokens": compiled.network_config.num_tokens}
    means: dict[str, Any] = dict.fromkeys(("mismatches", "top1", "kept_tokens_mean", "cycles_mean"))
    if rows:
        counts = np.array([row["token_counts"] for row in rows], float)
        means["kept_tokens_mean"] = [round(float(mean), 3) for mean in counts.mean(axis=0)]
        if rows[0]["equals_golden"] is not None:
            means["mismatches"] = sum(not row["equals_golden"] for row in rows)
        if rows[0]["label"] is not None:
            means["top1"] = float(np.mean([row["label"] == row["predicted"] for row in rows]))
        if kind is not DeviceKind.MACHINE:
            means["cycles_mean"] = float(np.mean([row["cycles"] for row in rows]))
    return summary | means
