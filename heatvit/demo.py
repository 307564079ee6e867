"""The demo: from handwritten digits to a proven accelerator and a report, each step reused while nothing changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from heatvit.files import file_digest, write_json, write_text
from heatvit.flow import train_network, write_network
from heatvit.golden import evaluate_golden, token_histogram, with_keep_share
from heatvit.hardware import generate_verilog, simulate_pictures
from heatvit.integers import CALIBRATION_PICTURES, compare_with_golden, finetune
from heatvit.pictures import Split, first, load_all, load_split
from heatvit.progress import Report as ProgressReport
from heatvit.progress import reporter
from heatvit.report.page import render
from heatvit.report.pictures import PictureResult
from heatvit.report.schema import Report, Rtl
from heatvit.steps import StepResult, run_step, source_digest
from hw.config import load_config
from model import checkpoint
from model.config import load_network_config
from model.recipe import load_recipe
from quant.convert import convert
from quant.network import IntegerNetwork
from quant.network_file import load_network
from quant.reference import PACKAGE_TOKEN
from quant.reference import run as run_golden

MODEL_SOURCES = ("model", "quant", "heatvit")
HARDWARE_SOURCES = ("hw", "quant", "sim", "bitstreams", "heatvit")
THRESHOLD_PICTURES = 32
"""Training pictures that fix the thresholds of the accuracy curve."""
TITLE = "heatvit: handwritten digits on a generated accelerator"

METHODS = [
    "Pictures: the 1797 handwritten digits of scikit-learn, enlarged to 28 x 28 pixels; a random fifth of each class "
    "is held out, and every accuracy is top-1 on all of that fifth.",
    "Float, dense: the float network without selectors. Integer, dense: the same network turned into integers after "
    "training, evaluated by the fast twin of the golden model, which tests hold equal to it. Integer, pruned: the "
    "network with selectors after quantization-aware training, evaluated in the same way.",
    "Multiply-accumulates: all matrix products of one picture, selectors included, tile waste and padding not; the "
    "pruned count is the mean over the held-out pictures.",
    "The line of the first figure sets the thresholds of the selectors to other values than the 0.5 that was trained, "
    "so that each keeps a given share of the patches of some training pictures; nothing is trained again.",
    "Training equals golden: on the stated pictures, every layer of the network in training mode, gradients on, has "
    "the codes of the golden model of the exported network, value by value.",
    "RTL equals golden: the generated Verilog runs in Verilator under cocotb behind AXI models, driven by the driver "
    "of the board; every layer that passes through a memory is stored and compared value by value, and the live "
    "token count after each selector is read from a register.",
    "Cycles are those of the core's own counter with every layer stored for comparison, which costs transfers, and "
    "with a memory that answers without bandwidth limit. They are no performance figures.",
]


@dataclass(frozen=True)
class DemoSettings:
    """What the demo runs: names as on the command line, and how many pictures each proof takes."""

    recipe: str = "digits"
    network: str = "digits"
    images: str = "digits"
    config: str = "demo"
    rtl_pictures: int = 24
    qat_pictures: int = 200
    keep_shares: tuple[float, ...] = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)


class Demo:
    """One run of the demo in a folder; every method is a step."""

    def __init__(self, out: Path, progress: Progress, settings: DemoSettings) -> None:
        self.out, self.progress, self.settings = out, progress, settings
        self.report: ProgressReport = reporter(progress)
        self.config = load_config(settings.config)
        self.split: Split = load_split(settings.images, load_network_config(settings.network))
        self.dense_file, self.network_file = out / "dense.safetensors", out / "network.safetensors"
        self.steps: dict[str, StepResult] = {}

    def run(self) -> Report:
        """Run every step that is not up to date, and write report.html and report.json."""
        settings, config = self.settings, self.config
        recipe, network = load_recipe(settings.recipe).to_dict(), load_network_config(settings.network).to_dict()
        trained = {
            "recipe": recipe,
            "network": network,
            "images": settings.images,
            "code": source_digest(MODEL_SOURCES),
        }
        # An interrupted training goes on in its folder; another recipe or another code gets another folder.
        training = self.out / "training" / hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()[:12]
        floats = [training / "dense.safetensors", training / "pruned.safetensors"]
        integers = [self.dense_file, self.network_file]
        self._step(
            "train",
            trained,
            floats,
            lambda: train_network(settings.recipe, settings.network, settings.images, training, self.progress),
        )
        self._step(
            "quantize",
            {**trained, "floats": _digests(floats), "pictures": settings.qat_pictures},
            integers,
            lambda: self._quantize(training),
        )
        evaluated = {"integers": _digests(integers), "keep_shares": settings.keep_shares, "code": trained["code"]}
        self._step("evaluate", evaluated, [], self._evaluate)
        hardware = {"config": config.to_dict(), "code": source_digest(HARDWARE_SOURCES)}
        self._step("generate", hardware, [], lambda: generate_verilog(settings.config, self.out / "verilog"))
        simulated = {**hardware, "integers": _digests(integers), "pictures": settings.rtl_pictures}
        self._step("simulate", simulated, [], self._simulate)
        return self._write_report()

    def _step(
        self, name: str, inputs: Mapping[str, Any], outputs: list[Path], action: Callable[[], dict[str, Any]]
    ) -> None:
        self.steps[name] = run_step(self.out / "stamps" / f"{name}.json", inputs, outputs, action)
        if self.steps[name].is_reused:
            self.report(f"{name}: up to date", 1, 1)

    def _quantize(self, training: Path) -> dict[str, Any]:
        """Write both integer networks; the dense one after training, the pruned one by training on."""
        dense = checkpoint.load_network(training / "dense.safetensors")
        pruned = checkpoint.load_network(training / "pruned.safetensors")
        calibration_u8 = load_all(first(self.split.train, CALIBRATION_PICTURES))
        normalisation = dense.normalisation
        integer_dense = convert(dense.state_dict(), dense.config, calibration_u8, normalisation.mean, normalisation.std)
        write_network(integer_dense, self.dense_file)
        recipe = load_recipe(self.settings.recipe)
        network, _ = finetune(
            pruned, dense, recipe, self.split.train, calibration_u8, training / "8-bit", self.progress
        )
        exported = network.export()
        comparison = compare_with_golden(
            network, exported, load_all(first(self.split.test, self.settings.qat_pictures))
        )
        write_network(exported, self.network_file)
        return {"pictures": comparison.pictures, "layers": comparison.layers, "mismatches": comparison.mismatches}

    def _evaluate(self) -> dict[str, Any]:
        """Measure both integer networks with the golden model, and the pruned one with other keep shares."""
        test = self.split.test
        dense, network = load_network(self.dense_file), load_network(self.network_file)
        golden_dense = evaluate_golden(dense, test, partial(self.report, "golden: dense"))
        golden = evaluate_golden(network, test, partial(self.report, "golden: pruned"))
        curve = []
        seen = first(self.split.train, THRESHOLD_PICTURES)
        for share in self.settings.keep_shares:
            step = partial(self.report, f"golden: keep {share:.0%}")
            result = evaluate_golden(with_keep_share(network, seen, share), test, step)
            curve.append({"keep_share": share, "accuracy": result.top1, "macs": float(result.macs.mean())})
        return {
            "golden_dense": golden_dense.top1,
            "golden_pruned": golden.top1,
            "macs": {"dense": golden.dense_macs, "pruned_mean": float(golden.macs.mean())},
            "curve": curve,
            "histogram": token_histogram(golden, network.config.num_tokens),
        }

    def _simulate(self) -> dict[str, Any]:
        pictures_u8 = load_all(first(self.split.test, self.settings.rtl_pictures))
        network = load_network(self.network_file)
        return simulate_pictures(network, pictures_u8, self.config, self.out / "work", self.report, stall_seed=None)

    def _write_report(self) -> Report:
        values = {name: step.values for name, step in self.steps.items()}
        evaluated, rtl, qat = values["evaluate"], values["simulate"], values["quantize"]
        network = load_network(self.network_file)
        report: Report = {
            "title": TITLE,
            "network": network.config.to_dict(),
            "config_name": self.settings.config,
            "config": self.config.to_dict(),
            "config_hash": values["generate"]["config_hash"],
            "verilog_sha256": values["generate"]["verilog_sha256"],
            "test_images": len(self.split.test.labels),
            "accuracy": {
                "float_dense": values["train"]["dense_top1"],
                "golden_dense": evaluated["golden_dense"],
                "golden_pruned": evaluated["golden_pruned"],
            },
            "macs": evaluated["macs"],
            "curve": evaluated["curve"],
            "kept_tokens_histogram": evaluated["histogram"],
            "qat_equals_golden": qat["mismatches"] == 0 and qat["layers"] > 0,
            "qat_images": qat["pictures"],
            "rtl": {name: rtl[name] for name in Rtl.__annotations__},  # type: ignore[typeddict-item]
            "seconds": {name: step.seconds for name, step in self.steps.items()},
            "methods": METHODS,
        }
        write_text(self.out / "report.html", render(report, self._picture_results(network)))
        write_json(self.out / "report.json", report)
        return report

    def _picture_results(self, network: IntegerNetwork) -> list[PictureResult]:
        """Return the pictures of the simulation with what the golden model, equal to the RTL, kept of them."""
        pictures = first(self.split.test, self.settings.rtl_pictures)
        results = []
        for picture_u8, label in zip(load_all(pictures), pictures.labels.tolist(), strict=True):
            inference = run_golden(network, picture_u8, taps=False)
            kept = tuple(
                tuple(int(token) - 1 for token in tokens if 0 < token < PACKAGE_TOKEN) for tokens in inference.tokens
            )
            results.append(PictureResult(picture_u8, label, int(inference.logits_i16.argmax()), kept))
        return results


def run_demo(out: Path, progress: Progress, settings: DemoSettings | None = None) -> Report:
    """Run the demo in a folder and return what report.json holds. An interrupted demo goes on where it stopped."""
    return Demo(out, progress, settings or DemoSettings()).run()


def _digests(paths: list[Path]) -> list[str]:
    return [file_digest(path) for path in paths]
