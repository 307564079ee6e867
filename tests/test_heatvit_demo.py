"""The demo from pictures to report on a tiny network, RTL included.

Testpoints: report.json has every promised field with sensible values; RTL, training and golden model agree; the page
is written beside it; a second run repeats no step and gives the same report; a lost output, another accelerator,
keep share or source repeats exactly the steps that depend on it; an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from heatvit import demo
from heatvit.demo import DemoSettings, run_demo
from quant.network import U8, IntegerNetwork
from quant.reference import run as run_golden

STEPS = ["train", "quantize", "evaluate", "generate", "simulate"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoSettings]:
    """A demo that takes seconds: 16 x 16 pictures of three classes, one epoch a stage, the smallest accelerator."""
    folder = tmp_path_factory.mktemp("settings")
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 3
    images = rng.integers(0, 80, (60, 16, 16)) + 80 * labels[:, None, None]
    np.savez(folder / "pictures.npz", images=images.astype(np.uint8), labels=labels)
    stage = {"epochs": 1, "learning_rate": 0.001}
    recipe = {"keep_ratios": [0.7, 0.5], "dense": stage, "select": stage, "quantize": stage, "batch_size": 16}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    yield DemoSettings(
        recipe=str(folder / "recipe.json"),
        network="test_tiny",
        images=str(folder / "pictures.npz"),
        config="tiny",
        rtl_pictures=3,
        qat_pictures=12,
        keep_shares=(0.25, 0.75),
    )


def stamps(out: Path) -> dict[str, int]:
    """Return when each step last ran."""
    return {name: (out / "stamps" / f"{name}.json").stat().st_mtime_ns for name in STEPS}


def repeated(out: Path, settings: DemoSettings) -> set[str]:
    """Run the demo again and return the steps that ran."""
    before = stamps(out)
    with Progress(disable=True) as progress:
        run_demo(out, progress, settings)
    return {name for name, time in stamps(out).items() if time != before[name]}


def fake_simulation(network: IntegerNetwork, pictures_u8: U8, *others: Any, **options: Any) -> dict[str, Any]:
    """What heatvit.hardware.simulate_pictures returns, from the golden model."""
    return {
        "images": len(pictures_u8),
        "mismatches": 0,
        "layers_compared": 10,
        "first_divergence": None,
        "kept_tokens": [run_golden(network, picture_u8).num_tokens for picture_u8 in pictures_u8],
        "cycles": [100] * len(pictures_u8),
        "unit_busy": {"gemm": 0.5},
        "unit_wait": {"gemm": 0.5},
    }


@pytest.mark.slow
def test_only_what_changed_runs_again(settings: DemoSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "source_digest", lambda packages: "the sources of this test")
    monkeypatch.setattr(demo, "simulate_pictures", fake_simulation)
    monkeypatch.setattr(demo, "generate_verilog", lambda *names: {"config_hash": "0x0", "verilog_sha256": "ab"})
    out = tmp_path / "demo"
    with Progress(disable=True) as progress:
        run_demo(out, progress, settings)
    written = (out / "report.json").read_text()
    assert repeated(out, settings) == set()
    assert (out / "report.json").read_text() == written
    assert repeated(out, replace(settings, rtl_pictures=2)) == {"simulate"}
    assert repeated(out, replace(settings, rtl_pictures=2, config="demo")) == {"generate", "simulate"}
    assert repeated(out, replace(settings, rtl_pictures=2, config="demo", keep_shares=(0.5,))) == {"evaluate"}
    last = replace(settings, rtl_pictures=2, config="demo", keep_shares=(0.5,))
    (out / "network.safetensors").unlink()
    assert repeated(out, last) == {"quantize"}  # gives the same network as before
    monkeypatch.setattr(demo, "source_digest", lambda packages: "other sources")
    assert repeated(out, last) == set(STEPS)


def test_interrupted_step_runs_again(settings: DemoSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "source_digest", lambda packages: "the sources of this test")
    monkeypatch.setattr(demo, "generate_verilog", lambda *names: {"config_hash": "0x0", "verilog_sha256": "ab"})
    monkeypatch.setattr(demo, "simulate_pictures", interrupted)
    out = tmp_path / "demo"
    with Progress(disable=True) as progress, pytest.raises(KeyboardInterrupt):
        run_demo(out, progress, settings)
    assert not (out / "report.json").exists() and not (out / "stamps" / "simulate.json").exists()
    trained = (out / "stamps" / "train.json").stat().st_mtime_ns
    monkeypatch.setattr(demo, "simulate_pictures", fake_simulation)
    with Progress(disable=True) as progress:
        run_demo(out, progress, settings)
    assert (out / "report.json").exists() and (out / "stamps" / "train.json").stat().st_mtime_ns == trained


@pytest.mark.slow
@pytest.mark.verilator
def test_demo(settings: DemoSettings, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with Progress(disable=True) as progress:
        report = run_demo(out, progress, settings)
    written = json.loads((out / "report.json").read_text())
    assert written == report
    assert all(0 <= written["accuracy"][name] <= 1 for name in ("float_dense", "golden_dense", "golden_pruned"))
    assert written["test_images"] == 12
    assert written["macs"]["dense"] > 0 and written["macs"]["pruned_mean"] > 0
    assert written["qat_equals_golden"] is True and written["qat_images"] == 12
    rtl = written["rtl"]
    assert rtl["images"] == 3 and rtl["mismatches"] == 0 and rtl["layers_compared"] > 60
    assert len(rtl["cycles"]) == 3 and min(rtl["cycles"]) > 100
    assert [len(counts) for counts in rtl["kept_tokens"]] == [2, 2, 2]
    assert [sum(counts) for counts in written["kept_tokens_histogram"]] == [12, 12]
    assert [point["keep_share"] for point in written["curve"]] == [0.25, 0.75]
    page = (out / "report.html").read_text()
    assert "0 mismatches" in page and page.count('class="picture"') == 3
