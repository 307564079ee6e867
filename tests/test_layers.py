"""Import rules: arrows between packages point one way, and board-side modules stay light.

Testpoints: package arrows; torch, pynq and hls4ml confined; __init__ files hold one docstring and nothing else.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "quant": {"quant"},
    "model": {"model", "quant"},
    "hw": {"hw", "quant"},
    "bitstreams": {"bitstreams", "hw", "quant"},
    "sim": {"sim", "model", "quant", "hw", "bitstreams"},
    "heatvit": {"heatvit", "model", "quant", "hw", "sim", "bitstreams"},
}
BOARD_MODULES = [
    "quant/fixed.py",
    "quant/config.py",
    "quant/network.py",
    "quant/patches.py",
    "hw/isa.py",
    "hw/config.py",
    "hw/layout.py",
    "hw/overlay.py",
    "hw/regmap.py",
    "hw/taps.py",
    "hw/tiling.py",
    "hw/weights.py",
    "bitstreams/accelerator.py",
    "bitstreams/compiled.py",
    "bitstreams/device_lock.py",
    "bitstreams/driver.py",
    "bitstreams/manifest.py",
    "bitstreams/pynq_driver.py",
]
PYNQ_MODULES = {"bitstreams/pynq_driver.py", "sim/zcu102.py"}
TORCH_MODULES = {
    f"quant/{name}.py"
    for name in (
        "fake_quant",
        "torch_layers",
        "torch_selector",
        "torch_forward",
        "quantize",
        "convert",
        "float_layers",
        "fast_golden",
        "live_tokens",
        "signal_to_noise",
        "equalize",
        "gelu_fit",
        "context_fit",
        "keep_thresholds",
        "post_training",
    )
}
SOURCES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imported(path)} & set(ALLOWED)
    assert ours <= ALLOWED[package]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_stays_in_model(path: Path) -> None:
    relative = path.relative_to(ROOT)
    if relative.parts[0] not in ("model", "heatvit") and str(relative) not in TORCH_MODULES:
        assert "torch" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pynq_stays_in_its_modules(path: Path) -> None:
    if str(path.relative_to(ROOT)) not in PYNQ_MODULES:
        assert not {"pynq", "pynqmetadata"} & {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hls4ml_stays_in_the_hls_route(path: Path) -> None:
    if not path.is_relative_to(ROOT / "hw" / "hls"):
        assert "hls4ml" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("name", BOARD_MODULES)
def test_board_modules_import_numpy_and_stdlib_only(name: str) -> None:
    foreign = {"torch", "amaranth", "cocotb", "rich", "typer", "sklearn", "PIL", "safetensors"}
    assert not foreign & {module.split(".")[0] for module in imported(ROOT / name)}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=str)
def test_init_files_hold_one_docstring(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)
