"""An hls4ml project of a block: the model graph built layer by layer, so that no front end guesses what we mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hls4ml.backends import get_backend
from hls4ml.model import ModelGraph
from numpy.typing import NDArray

from hw.hls.block import INT8, INT32, HlsBlock, HlsLayer, Io, Kind
from hw.hls.guards import DENSE_CLASSES, check_conversion
from hw.hls.layers import BACKEND, register_kernels
from hw.overlay import CLOCK_MHZ, PART


@dataclass(frozen=True)
class TestVectors:
    """Calls of a block, one a row: all inputs one after the other, and all golden results."""

    inputs: NDArray[np.int64]
    results: NDArray[np.int64]


def make_project(block: HlsBlock, io: Io, folder: Path) -> ModelGraph:
    """Return the checked hls4ml graph of a block; it writes to `folder`, with all paths absolute.

    Raises ValueError if hls4ml made anything else of the block than was asked for.
    """
    register_kernels()
    backend = get_backend(BACKEND)
    config = backend.create_initial_config(
        part=PART, clock_period=1000 / CLOCK_MHZ, io_type=f"io_{io.value}", write_weights_txt=True
    )
    config |= {"Backend": BACKEND, "ProjectName": block.project, "OutputDir": str(folder.resolve())}
    config["HLSConfig"] = {
        "Model": {"Precision": {"default": INT32}, "ReuseFactor": 1, "Strategy": "Resource"},
        "LayerName": {
            **{tensor.name: {"Precision": {"result": tensor.precision}} for tensor in block.inputs},
            **{layer.name: _layer_config(layer) for layer in block.layers},
        },
    }
    inputs = [
        {"class_name": "InputLayer", "name": tensor.name, "input_shape": list(tensor.shape)} for tensor in block.inputs
    ]
    graph = ModelGraph.from_layer_list(
        config,
        inputs + [_layer(layer) for layer in block.layers],
        inputs=[tensor.name for tensor in block.inputs],
        outputs=list(block.outputs),
    )
    check_conversion(graph, block)
    return graph


def write_project(graph: ModelGraph, vectors: TestVectors | None = None) -> None:
    """Write the C++, the parameters and the scripts for Vitis HLS, which then export an IP as well.

    vectors: what Vitis' C and RTL simulation read, and the golden results in the form in which they print theirs.
    """
    graph.write()
    folder = Path(graph.config.get_output_dir())
    options = folder / "build_opt.tcl"
    options.write_text(options.read_text().replace("export     0", "export     1"))
    for name in ("tb_input_features", "tb_output_predictions"):  # of a block that was in this folder before
        (folder / "tb_data" / f"{name}.dat").unlink(missing_ok=True)
    if vectors is not None:
        for name, rows in (("tb_input_features", vectors.inputs), ("tb_output_predictions", vectors.results)):
            lines = (" ".join(map(str, row)) + " \n" for row in rows.tolist())
            (folder / "tb_data" / f"{name}.dat").write_text("".join(lines))


def multipliers(graph: ModelGraph) -> dict[str, int]:
    """Return how many int8 multipliers each product asks for, by its reuse factor; hls4ml knows no other resource."""
    products = [layer for layer in graph.get_layers() if layer.class_name in DENSE_CLASSES]
    return {
        layer.name: -(-int(np.prod(layer.get_weights("weight").data.shape)) // int(layer.get_attr("reuse_factor")))
        for layer in products
    }


def _layer_config(layer: HlsLayer) -> dict[str, Any]:
    precision = {"result": layer.precision}
    settings: dict[str, Any] = {"Precision": precision, "Trace": bool(layer.taps)}
    if layer.kind is Kind.DENSE:
        precision |= {"weight": INT8, "bias": INT32, "accum": INT32}
        # As many multipliers as outputs, each used once an input: what a layer of any size can have.
        settings["ReuseFactor"] = layer.arrays["weight"].shape[1]
    return settings


def _layer(layer: HlsLayer) -> dict[str, Any]:
    """Return a layer as ModelGraph.from_layer_list takes it."""
    described: dict[str, Any] = {"class_name": layer.kind.value, "name": layer.name, "inputs": list(layer.inputs)}
    if layer.kind is Kind.DENSE:
        weight = layer.arrays["weight"]
        described |= {
            "n_in": weight.shape[1],
            "n_out": weight.shape[0],
            "weight_data": weight.T.astype("float64"),  # hls4ml's order: (in, out)
            "bias_data": layer.arrays["bias"].astype("float64"),
        }
    else:
        described |= {"shape": list(layer.shape), "constants": layer.constants}
        described |= {f"{name}_data": array.astype("float64") for name, array in layer.arrays.items()}
    return described
