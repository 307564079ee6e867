"""The notebook of the board, executed on the simulated one by a real kernel; and what it draws with.

Testpoints: the notebook is committed without outputs; with the machine it runs to its end, reports exact pictures and
shows a sheet of pictures and a histogram, leaves no file beside it; a dropped patch is tinted and a kept one is not,
in grey and in colour; a sheet fills its rows; a histogram has one bar where all values are equal; nothing to draw is
refused.
"""

import base64
import io
import sys
from dataclasses import replace
from pathlib import Path

import board
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from bitstreams.drawing import BAR, LOST_SHARE, LOST_TINT, draw_histogram, draw_kept_patches, draw_sheet
from heatvit.compiled import make_samples

NOTEBOOK = Path(__file__).parent.parent / "bitstreams" / "notebooks" / "heatvit_zcu102.ipynb"


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def with_parameters(notebook, **values):
    """The notebook with other values in the cell that is tagged parameters."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    lines = cell.source.splitlines()
    for name, value in values.items():
        (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
        lines[place] = f"{name} = {value!r}"
    cell.source = "\n".join(lines)
    return notebook


@pytest.fixture
def bare_jupyter(tmp_path, monkeypatch):
    """Jupyter without anything of the user's; the kernel is that of this environment."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix) / "share" / "jupyter"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


def test_notebook_is_committed_without_outputs():
    cells = [cell for cell in read_notebook().cells if cell.cell_type == "code"]
    assert len(cells) >= 5 and all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_notebook_runs_on_the_simulated_board(tmp_path, bare_jupyter):
    network, pictures = board.network_and_pictures(4)
    compiled = replace(board.compiled_network(network), samples=make_samples(network, pictures, [0, 1, 2, 3]))
    compiled.save(tmp_path / "network.npz")
    before = sorted(NOTEBOOK.parent.rglob("*"))
    notebook = with_parameters(read_notebook(), DEVICE="machine", NETWORK=str(tmp_path / "network.npz"), RUNS=5)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "4 of 4 pictures equal the golden model bit for bit" in text and "simulated, 64 multiply" in text
    images = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", ())]
    sheet, histogram = (Image.open(io.BytesIO(base64.b64decode(image))) for image in images)
    assert sheet.width > 600 and sheet.height > 200 and histogram.size == (480, 180)
    assert sorted(NOTEBOOK.parent.rglob("*")) == before


@pytest.mark.parametrize("channels", [1, 3])
def test_dropped_patches_are_tinted(channels):
    config = replace(board.SMALL, in_chans=channels)
    picture = np.full((channels, 8, 8), 200, np.uint8)
    tile = np.asarray(draw_kept_patches(picture, np.array([0, 5]), config, "words"))
    scale = 112 // 8
    second = tile[: 8 * scale, 8 * scale + 6 :]
    centres = second[scale :: 2 * scale, scale :: 2 * scale].reshape(16, 3)
    lost = [int(LOST_SHARE * 200 + (1 - LOST_SHARE) * tint) for tint in LOST_TINT]
    assert centres.tolist() == [[200] * 3 if patch in (0, 5) else lost for patch in range(16)]
    assert (tile[: 8 * scale, : 8 * scale] == 200).all()
    assert (tile[8 * scale :] != 255).any()  # the words


def test_sheet_fills_its_rows():
    tile = Image.new("RGB", (20, 10), (0, 0, 0))
    assert draw_sheet([tile] * 5, 3).size == (3 * 32, 2 * 22)
    assert draw_sheet([tile], 3).size == (32, 22)
    with pytest.raises(ValueError, match="a sheet needs at least one tile"):
        draw_sheet([], 3)


def test_histogram():
    def bars(values):
        pixels = np.asarray(draw_histogram(values, "ms"))
        is_bar = (pixels == BAR).all(axis=2).any(axis=0)
        return int((np.diff(is_bar.astype(int)) == 1).sum())

    assert bars([1.0] * 7) == 1
    assert bars(list(range(24))) == 24
    with pytest.raises(ValueError, match="a histogram needs at least one value"):
        draw_histogram([], "ms")
