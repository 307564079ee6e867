"""The compiled network, the one file that a board needs.

Testpoints: a file comes back as it was, with and without samples; one picture and many are accepted, others refused by
their shapes; a short run is filled up with black; missing, truncated and foreign files, and every field that is
missing, misshapen or out of range, are refused by name and nothing is executed; the board's modules need numpy only.
"""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import board
import numpy as np
import pytest

from bitstreams.compiled import CompiledNetwork
from heatvit.compiled import make_samples
from hw.program import compile_network
from quant.reference import patchify

NETWORK, PICTURES = board.network_and_pictures(3)


@pytest.fixture(scope="module")
def compiled():
    samples = make_samples(NETWORK, PICTURES, [0, 1, -1])
    return replace(board.compiled_network(NETWORK, pictures=2), samples=samples)


@pytest.fixture
def arrays(compiled, tmp_path):
    """Every array of a good file."""
    compiled.save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as file:
        return {name: file[name] for name in file.files}


def refused(arrays, tmp_path, match, **changes):
    """Loading the arrays with some changed (None: left out) must fail with a message."""
    changed = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(tmp_path / "bad.npz", **changed)
    with pytest.raises(ValueError, match=rf"bad.npz is no compiled network: .*{match}"):
        CompiledNetwork.load(tmp_path / "bad.npz")


def with_facts(arrays, **changes):
    facts = json.loads(arrays["facts"].tobytes()) | changes
    return np.frombuffer(json.dumps(facts).encode(), np.uint8)


@pytest.mark.parametrize("has_samples", [True, False])
def test_file_comes_back(compiled, tmp_path, has_samples):
    written = compiled if has_samples else replace(compiled, samples=None)
    written.save(tmp_path / "network.npz")
    read = CompiledNetwork.load(tmp_path / "network.npz")
    for field in fields(CompiledNetwork):
        if field.name not in ("samples", "input_lut_i8"):
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    assert np.array_equal(read.input_lut_i8, NETWORK.input_lut_i8)
    assert (read.samples is not None) == has_samples
    if has_samples:
        for field in fields(read.samples):
            assert np.array_equal(getattr(read.samples, field.name), getattr(compiled.samples, field.name))


def test_input_is_that_of_the_compiler(compiled):
    program = compile_network(NETWORK, board.CONFIG, pictures=2)
    patches = [patchify(NETWORK, picture)[1:] for picture in (*PICTURES, np.zeros_like(PICTURES[0]))]
    assert compiled.pack_pictures(PICTURES[:2]) == program.pack_input(*patches[:2])
    assert compiled.pack_pictures(PICTURES[2:]) == program.pack_input(*patches[2:])
    assert (compiled.program_bytes(), compiled.weights) == (program.program_bytes(), program.weights)


def test_pictures_are_checked(compiled):
    assert compiled.check_pictures(PICTURES[0]).shape == (1, 1, 8, 8)
    assert compiled.check_pictures(PICTURES).shape == (3, 1, 8, 8)
    for wrong in (PICTURES[0, 0], PICTURES.astype(np.int8), PICTURES[:, :, :4], PICTURES[None]):
        with pytest.raises(ValueError, match=r"pictures must be uint8 \(1, 8, 8\) or \(B, \*\(1, 8, 8\)\), not "):
            compiled.check_pictures(wrong)


@pytest.mark.parametrize("name", ["facts", "descriptors", "weights", "input_lut", "sample_logits"])
def test_missing_arrays_are_named(arrays, tmp_path, name):
    refused(arrays, tmp_path, f"{name} is missing", **{name: None})


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        ("input_lut", np.zeros((1, 255), np.int8), r"input_lut must be int8 \(1, 256\), not int8 \(1, 255\)"),
        ("input_lut", np.zeros((1, 256), np.uint8), r"input_lut must be int8 \(1, 256\), not uint8"),
        ("weights", np.zeros((2, 2), np.uint8), r"weights must be uint8 \(N\), not uint8 \(2, 2\)"),
        ("descriptors", np.zeros(0, np.uint8), "descriptors must be whole and end with END"),
        ("descriptors", np.zeros(63, np.uint8), "descriptors must be whole and end with END"),
        ("descriptors", np.zeros(64, np.uint8), "descriptors must be whole and end with END"),
        ("sample_logits", np.zeros((3, 4), np.int16), r"sample_logits must be int16 \(3, 5\), not int16 \(3, 4\)"),
        ("sample_labels", np.zeros(2, np.int64), r"sample_labels must be int64 \(3\), not int64 \(2,\)"),
        ("facts", np.frombuffer(b"{", np.uint8), "Expecting property name"),
        ("facts", np.frombuffer(b"[1]", np.uint8), r"version must be 1, not \[1\]"),
    ],
)
def test_wrong_arrays_are_named(arrays, tmp_path, name, array, match):
    refused(arrays, tmp_path, match, **{name: array})


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("version", 2, "version must be 1, not 2"),
        ("pictures", 0, "pictures must be a whole number that fits the network, not 0"),
        ("pictures", 5, "pictures must be a whole number that fits the network, not 5"),
        ("pictures", 1.5, "pictures must be a whole number that fits the network, not 1.5"),
        ("output_bytes", 64, "output_bytes must be a whole number that fits the network, not 64"),
        ("logit_scale", "1", "logit_scale must be a positive number, not '1'"),
        ("config", {"rows": 2}, "config is incomplete"),
        ("network", {"color": 1}, "unknown network field 'color'"),
    ],
)
def test_wrong_facts_are_named(arrays, tmp_path, name, value, match):
    refused(arrays, tmp_path, match, facts=with_facts(arrays, **{name: value}))


def test_foreign_and_damaged_files(compiled, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        CompiledNetwork.load(tmp_path / "absent.npz")
    compiled.save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "single.npy", np.zeros(3))
    objects = tmp_path / "objects.npz"
    np.savez(objects, facts=np.array([object()]), allow_pickle=True)
    for content in (b"", b"text", whole[:100], whole[: len(whole) // 2], (tmp_path / "single.npy").read_bytes()):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad.npz is no compiled network"):
            CompiledNetwork.load(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match=r"objects.npz is no compiled network: Object arrays cannot be loaded"):
        CompiledNetwork.load(objects)


def test_board_needs_numpy_only():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import bitstreams.accelerator, bitstreams.manifest, bitstreams.device_lock\n"
        "names = {name.split('.')[0] for name in sys.modules} - {*sys.stdlib_module_names, 'cython_runtime'}\n"
        "print(*sorted(name for name in names if not name.startswith('_')))"
    )
    root = str(Path(__file__).parent.parent)
    # -S: nothing that installed packages run at start. The folder of numpy holds all of them.
    path = {"PYTHONPATH": str(Path(np.__file__).parent.parent)}
    result = subprocess.run([sys.executable, "-S", "-c", code, root], capture_output=True, text=True, env=path)
    assert result.stdout.split() == ["bitstreams", "hw", "numpy", "quant"], result.stderr
