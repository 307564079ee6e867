"""The HLS route as plain functions: a block of a network as an hls4ml project, and its C simulation.

hls4ml is an extra, so what needs it is imported where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatvit.files import file_digest
from heatvit.pictures import load_all, open_pictures
from heatvit.progress import Report
from hw.hls.available import require_hls4ml
from hw.hls.block import HlsBlock, HlsLayer, Io
from hw.hls.blocks import make_block
from hw.hls.samples import Samples, Taps, cut_samples, expected_result, in_use
from quant.network import IntegerNetwork
from quant.network_file import load_network
from quant.reference import run

if TYPE_CHECKING:
    from hw.hls.csim import Simulation

ESTIMATES = "none without Vitis HLS: hls4ml only reads the reports of a synthesis"
"""What hls4ml 1.3.0 says about resources and latency of a project that was not synthesized."""


def generate_project(network_file: Path, block_name: str, io: Io, out: Path, images: str | None) -> dict[str, Any]:
    """Write the hls4ml project of a block to a folder, with the golden vectors of one picture if there is a source."""
    require_hls4ml()
    from hw.hls import project

    network = load_network(network_file)
    block = make_block(network, block_name)
    graph = project.make_project(block, io, out)
    vectors = None
    if images is not None:
        pictures, _ = open_pictures(images, network.config, 1)
        taps = run(network, load_all(pictures)[0]).taps
        samples = cut_samples(block, taps)
        results = [_padded(expected_result(block, layer, taps), layer) for layer in block.results]
        vectors = project.TestVectors(_flat(*samples.inputs), _flat(*results))
    project.write_project(graph, vectors)
    return {
        **_identity(network_file, block, io),
        "project": str(out),
        "top": block.project,
        "inputs": {tensor.name: f"{tensor.precision} {list(tensor.shape)}" for tensor in block.inputs},
        "outputs": {layer.name: f"{layer.precision} {list(layer.shape)}" for layer in block.results},
        "multipliers": project.multipliers(graph),
        "estimates": ESTIMATES,
        "vitis_scripts": "build_prj.tcl: C simulation, synthesis, RTL simulation, export; not run here",
    }


@dataclass
class _Comparison:
    """What was compared so far; first holds taps and place of the first call that differed."""

    tokens: int = 0
    values: int = 0
    mismatches: int = 0
    first: tuple[int, int, Taps] | None = field(default=None, repr=False)

    def add(self, picture: int, taps: Taps, found: NDArray[np.int64], expected: NDArray[np.int64]) -> None:
        """Count a picture's calls."""
        differs = found != expected
        self.values += expected.size
        self.mismatches += int(differs.sum())
        if self.first is None and differs.any():
            self.first = (picture, int(np.argwhere(differs)[0, 0]), taps)


def simulate_block(
    network_file: Path, block_name: str, io: Io, images: str, count: int, work: Path, report: Report
) -> dict[str, Any]:
    """Compile a block with g++ and compare it with the golden model on what `count` pictures make of its input.

    A call is one token, one row of attention scores, or all live tokens of a picture; "tokens" counts rows.
    """
    require_hls4ml()
    from hw.hls import csim, project

    network = load_network(network_file)
    block = make_block(network, block_name)
    pictures, _ = open_pictures(images, network.config, count)
    report("compile", 0, 1)
    graph = project.make_project(block, io, work / "hls" / f"{block.project}_{io.value}")
    simulation = csim.compile_project(graph)
    report("compile", 1, 1)
    comparison = _Comparison()
    for index, picture_u8 in enumerate(load_all(pictures)):
        report("simulate", index, len(pictures.labels))
        _compare(network, block, simulation, index, picture_u8, comparison)
    report("simulate", len(pictures.labels), len(pictures.labels))
    return {
        **_identity(network_file, block, io),
        "images": len(pictures.labels),
        "tokens": comparison.tokens,
        "values": comparison.values,
        "mismatches": comparison.mismatches,
        "first_difference": _first_difference(block, simulation, comparison),
        "compile_seconds": simulation.compile_seconds,
    }


def _compare(
    network: IntegerNetwork,
    block: HlsBlock,
    simulation: Simulation,
    index: int,
    picture_u8: NDArray[np.uint8],
    comparison: _Comparison,
) -> None:
    taps = run(network, picture_u8).taps
    samples = cut_samples(block, taps)
    comparison.tokens += samples.rows(block)
    for layer, result in zip(block.results, simulation.run(samples.inputs), strict=True):
        expected = expected_result(block, layer, taps)
        comparison.add(index, taps, in_use(result, expected), expected)


def _first_difference(block: HlsBlock, simulation: Simulation, comparison: _Comparison) -> dict[str, Any] | None:
    """Name the first layer that differs in the first call that did, and the first value there."""
    if comparison.first is None:
        return None
    picture, call, taps = comparison.first
    samples = cut_samples(block, taps)
    one = Samples(tuple(array[call : call + 1] for array in samples.inputs), samples.live[call : call + 1])
    traced = simulation.trace(one.inputs)
    for layer in block.layers:
        if not layer.taps:
            continue
        expected = expected_result(block, layer, taps)[call]
        found = in_use(traced[layer.name], expected[None])[0]
        if (places := np.argwhere(found != expected)).size:
            place = tuple(places[0].tolist())
            return {
                "layer": layer.name,
                "tap": layer.taps[0],
                "picture": picture,
                "call": call,
                "place": list(place),
                "expected": int(expected[place]),
                "found": int(found[place]),
            }
    raise RuntimeError(f"block {block.name} differs, but no layer of it: trace and run disagree")


def _identity(network_file: Path, block: HlsBlock, io: Io) -> dict[str, Any]:
    return {
        "network": str(network_file),
        "network_sha256": file_digest(network_file),
        "block": block.name,
        "io": io.value,
    }


def _padded(expected: NDArray[np.int64], layer: HlsLayer) -> NDArray[np.int64]:
    """Return a golden result with zeros where only the block has values."""
    sizes = zip(layer.shape, expected.shape[1:], strict=True)
    return np.pad(expected, [(0, 0), *((0, size - used) for size, used in sizes)])


def _flat(*arrays: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return arrays (calls, *shape) as one (calls, values)."""
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)
