"""Verilog generation: files, hash, reproducibility and what a tool needs to accept them.

Testpoints: sources with the top last, all modules defined once; memories are instances, not text; the top has the pins
of its signature; digest depends on config and multiplier only, also over hash seeds and folders; no source location and
no path in the text; a failed write leaves the old file; an unknown multiplier is refused; Verilator accepts the files
without an error.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.back import verilog

from hw.config import CONFIGS
from hw.generate import generate
from hw.rtl.axi import axi4_signature, axi_lite_signature
from hw.rtl.modules import (
    ACTIVATION_MODULE,
    COLUMN_MODULE,
    ELEMENT_MODULE,
    EXP_MODULE,
    NORM_MODULE,
    RAM_MODULE,
    TOP_MODULE,
)
from hw.rtl.top import CONTROL_PREFIX, memory_prefix
from hw.timing import activation_width, drain_width, norm_width

TINY = CONFIGS["tiny"]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return generate(TINY, tmp_path_factory.mktemp("tiny") / "verilog")


def modules(path):
    return re.findall(r"^module (\S+?)\s*#?\(", path.read_text(), re.MULTILINE)


def test_sources(tiny):
    assert tiny.top == TOP_MODULE
    assert tiny.separate_modules == (COLUMN_MODULE, ELEMENT_MODULE, ACTIVATION_MODULE, NORM_MODULE, EXP_MODULE)
    order = (RAM_MODULE, *tiny.separate_modules, tiny.top)
    assert [path.name for path in tiny.sources] == [f"{name}.v" for name in order]
    assert sorted(path.name for path in tiny.sources[0].parent.iterdir()) == sorted(path.name for path in tiny.sources)
    names = [name for path in tiny.sources for name in modules(path)]
    assert len(set(names)) == len(names)
    for module in order:
        assert names.count(module) == 1


def test_repeated_modules_are_instances(tiny):
    widths = {ELEMENT_MODULE: drain_width(TINY), ACTIVATION_MODULE: activation_width(TINY)}
    widths |= {NORM_MODULE: norm_width(TINY), EXP_MODULE: TINY.depth}
    counts = {COLUMN_MODULE: TINY.columns} | {module: TINY.rows * width for module, width in widths.items()}
    for module, count in counts.items():
        assert len(re.findall(rf"^\s+{module} ", tiny.sources[-1].read_text(), re.MULTILINE)) == count


def test_memories_are_instances_without_contents(tiny):
    text = tiny.sources[-1].read_text()
    depths = re.findall(rf"^\s+{RAM_MODULE} #\(.*?\.DEPTH\(32'd(\d+)\)", text, re.MULTILINE | re.DOTALL)
    words = (TINY.act_words, TINY.wide_words, TINY.weight_words, TINY.param_words, TINY.row_scale_words)
    assert sorted(map(int, depths)) == sorted(words)
    largest = max(int(end) + 1 for end in re.findall(r"^\s+reg \[.*\] \S+ \[(\d+):0\];", text, re.MULTILINE))
    assert largest < TINY.param_words  # queues and the token list


def test_top_has_the_pins_of_its_signature(tiny):
    header = re.search(rf"^module {TOP_MODULE}\(([^)]*)\)", tiny.sources[-1].read_text(), re.MULTILINE)
    assert header is not None
    pins = {pin.strip() for pin in header.group(1).split(",")}
    control = {CONTROL_PREFIX + name for name in axi_lite_signature().members}
    memory = {memory_prefix(0) + name for name in axi4_signature(TINY.axi_bytes).members}
    assert pins == {"clk", "rst", "interrupt"} | control | memory


def test_no_place_or_time_in_the_text(tiny):
    for path in tiny.sources:
        text = path.read_text()
        assert str(ROOT) not in text and ".py" not in text and "src =" not in text


@pytest.mark.slow
def test_digest_is_reproducible(tiny, tmp_path):
    """The same text from another process, folder and hash seed."""
    program = (
        "import sys; from pathlib import Path; from hw.config import CONFIGS; from hw.generate import generate;"
        "print(generate(CONFIGS['tiny'], Path(sys.argv[1])).sha256)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == tiny.sha256
    assert re.fullmatch("[0-9a-f]{64}", tiny.sha256)


@pytest.fixture
def quick(monkeypatch):
    """Replace components and back end by their arguments, for tests of the files around them."""
    monkeypatch.setattr("hw.generate.make_modules", lambda *arguments: dict.fromkeys(("block", "top"), arguments))
    monkeypatch.setattr(verilog, "convert", lambda arguments, **_: repr(arguments))


def test_digest_depends_on_the_config(quick, tmp_path):
    assert generate(TINY, tmp_path).sha256 == generate(TINY, tmp_path / "other").sha256
    assert generate(TINY, tmp_path).sha256 != generate(replace(TINY, act_words=512), tmp_path).sha256


def test_failed_write_leaves_the_old_file(quick, tmp_path, monkeypatch):
    first = generate(TINY, tmp_path)
    before = {path: path.read_bytes() for path in first.sources}

    def fail(path, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        generate(replace(TINY, act_words=512), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_unknown_multiplier_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dsp must be one of behavioural, dsp48, not 'lut'"):
        generate(TINY, tmp_path / "new", dsp="lut")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_dsp48_instances(tiny, tmp_path):
    files = generate(TINY, tmp_path, dsp="dsp48")
    assert files.sha256 != tiny.sha256
    # One DSP48E2 per pair of rows and depth position, in every column.
    assert len(re.findall(r"^\s+DSP48E2 ", files.sources[1].read_text(), re.MULTILINE)) == TINY.rows // 2 * TINY.depth


@pytest.mark.verilator
def test_verilator_accepts_the_files(tiny):
    from sim.verilator import environment

    result = subprocess.run(
        # The interrupt pin has the name of a C++ type; Verilator renames it in its C++ and says so.
        ["verilator", "--lint-only", "-Wno-lint", "-Wno-style", "-Wno-SYMRSVDWORD", "--top-module", tiny.top]
        + [str(path) for path in tiny.sources],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
