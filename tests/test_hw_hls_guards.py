"""Conversions that hls4ml does silently wrong are refused, with layer and difference.

Testpoints: through hls4ml's PyTorch front end: a Linear on (N, C) and on (C,) whose weights are not transposed, and the
same with weights handed over transposed, accepted; a softmax over the last axis of (N, C), which becomes one over all
values; an ignored slice of rows and of channels; an einsum whose result has another shape; int32 biases that float32
cannot hold, refused, and as double accepted. In a graph of ours: a changed weight, bias, multiplier, constant, type,
shape, order, input and output; a missing layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("hls4ml")

import hls4ml

from hw.hls.block import INT8, INT16, INT32, HlsBlock, HlsLayer, Io, Kind
from hw.hls.block import Tensor as HlsTensor
from hw.hls.blocks import make_block
from hw.hls.guards import check_conversion
from hw.hls.project import make_project
from model.config import NETWORKS
from quant.synthetic import random_network

ROWS, CHANNELS = 5, 8
EXACT = {"weight": INT8, "bias": INT32, "accum": INT32, "result": INT32}


class Model(nn.Module):
    """A torch network of one operation that hls4ml's front end calls by a name; the input is x."""

    def __init__(self, name: str, layer: nn.Module, before: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.add_module(name, layer)
        self.name, self.before = name, before

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operation."""
        result: Tensor = getattr(self, self.name)(self.before(x))
        return result


class Scores(nn.Module):
    """A product of two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Contract the last axes."""
        return torch.einsum("bnd,bmd->bnm", x, y)


def convert(model: nn.Module, shape: Any, precisions: dict[str, dict[str, str]], folder: Path) -> Any:
    """Convert by the PyTorch front end without its layout changes."""
    config = hls4ml.utils.config_from_pytorch_model(
        model,
        shape,
        granularity="name",
        backend="Vitis",
        default_precision=INT32,
        channels_last_conversion="off",
    )
    for name, precision in precisions.items():
        config["LayerName"][name]["Precision"] = precision
    return hls4ml.converters.convert_from_pytorch_model(
        model, output_dir=str(folder), backend="Vitis", hls_config=config
    )


def product(rows: tuple[int, ...], depth: int = CHANNELS, bias_step: int = 1000) -> HlsBlock:
    """Return a block of one product, rows (N,) or none, with distinct weights."""
    weight = np.arange(CHANNELS * depth).reshape(CHANNELS, depth) - 20
    bias = np.arange(CHANNELS) * bias_step + 1
    layer = HlsLayer(
        "fc", Kind.DENSE, ("x",), (*rows, CHANNELS), INT32, {"weight": weight.astype(np.int8), "bias": bias}
    )
    return HlsBlock("test", (HlsTensor("x", (*rows, CHANNELS), INT8),), (layer,), ("fc",))


def linear(block: HlsBlock, dtype: torch.dtype, is_transposed: bool) -> nn.Linear:
    """Return torch's layer with the numbers of a block's product."""
    arrays = block.layers[0].arrays
    weight, bias = (torch.from_numpy(arrays[name].astype(np.float64)).to(dtype) for name in ("weight", "bias"))
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
    layer.load_state_dict({"weight": weight.T.contiguous() if is_transposed else weight, "bias": bias})
    return layer


def refusal(graph: Any, block: HlsBlock) -> str:
    """Return why a graph is refused."""
    with pytest.raises(ValueError) as refused:
        check_conversion(graph, block)
    return str(refused.value)


def convert_product(
    block: HlsBlock, folder: Path, *, dtype: torch.dtype = torch.float64, is_transposed: bool = True
) -> Any:
    model = Model("fc", linear(block, dtype, is_transposed), lambda x: x)
    return convert(model, block.inputs[0].shape, {"x": {"result": INT8}, "fc": EXACT}, folder)


@pytest.mark.parametrize("rows", [(), (ROWS,), (CHANNELS,)])
def test_weights_that_are_not_transposed(rows: tuple[int, ...], tmp_path: Path) -> None:
    block = product(rows)
    check_conversion(convert_product(block, tmp_path), block)
    graph = convert_product(block, tmp_path, is_transposed=False)
    assert refusal(graph, block) == ("block test, layer fc: weight[0, 1] must be -19, not -12.0 as hls4ml made it")


def test_biases_that_float32_cannot_hold(tmp_path: Path) -> None:
    block = product((), bias_step=1 << 24)
    check_conversion(convert_product(block, tmp_path), block)
    graph = convert_product(block, tmp_path, dtype=torch.float32)
    assert "bias[1] must be 16777217, not 16777216" in refusal(graph, block)


def test_softmax_over_all_values(tmp_path: Path) -> None:
    shape = (ROWS, CHANNELS)
    layer = HlsLayer("exp", Kind.SOFTMAX, ("x",), shape, INT32)
    block = HlsBlock("test", (HlsTensor("x", shape, INT16),), (layer,), ("exp",))
    model = Model("exp", nn.Softmax(dim=-1), lambda x: x)
    graph = convert(model, shape, {"x": {"result": INT16}, "exp": {"result": INT32}}, tmp_path)
    assert graph.graph["exp"].get_attr("n_in") == ROWS * CHANNELS  # what hls4ml normalises over
    assert "class must be HeatvitSoftmax, not Softmax" in refusal(graph, block)


def test_slices_that_are_ignored(tmp_path: Path) -> None:
    block = product((ROWS,))
    first_rows = replace(block, layers=(replace(block.layers[0], shape=(ROWS - 2, CHANNELS)),))
    model = Model("fc", linear(block, torch.float64, True), lambda x: x[:, : ROWS - 2])
    graph = convert(model, (ROWS, CHANNELS), {"x": {"result": INT8}, "fc": EXACT}, tmp_path)
    assert "shape must be (3, 8), not (5, 8)" in refusal(graph, first_rows)

    block = product((), depth=CHANNELS // 2)
    layer = nn.Linear(CHANNELS // 2, CHANNELS, dtype=torch.float64)
    arrays = block.layers[0].arrays
    # Transposed numbers in a layer of torch's shape: only that the slice was lost is wrong.
    weight = torch.from_numpy(arrays["weight"].T.reshape(CHANNELS, -1).astype(np.float64))
    layer.load_state_dict({"weight": weight, "bias": torch.from_numpy(arrays["bias"].astype(np.float64))})
    model = Model("fc", layer, lambda x: x[:, : CHANNELS // 2])
    graph = convert(model, (CHANNELS,), {"x": {"result": INT8}, "fc": EXACT}, tmp_path)
    node = graph.graph["fc"]
    node.weights["weight"].data = node.weights["weight"].data.reshape(CHANNELS // 2, CHANNELS)
    assert "channels read must be 4, not 8" in refusal(graph, block)


def test_einsum_of_another_shape(tmp_path: Path) -> None:
    inputs = tuple(HlsTensor(name, (ROWS, CHANNELS), INT8) for name in ("x", "y"))
    layer = HlsLayer("einsum", Kind.DENSE, ("x", "y"), (ROWS, ROWS), INT32)
    precisions = {"x": {"result": INT8}, "y": {"result": INT8}, "einsum": {"result": INT32}}
    graph = convert(Scores(), [(ROWS, CHANNELS), (ROWS, CHANNELS)], precisions, tmp_path)
    assert "shape must be (5, 5), not (1, 5, 5)" in refusal(graph, HlsBlock("test", inputs, (layer,), ("einsum",)))


def change_array(name: str, array: str, block: HlsBlock) -> HlsBlock:
    """Return a block whose layer has one other value in an array than the graph."""
    layers = list(block.layers)
    index = next(number for number, layer in enumerate(layers) if layer.name == name)
    values = layers[index].arrays[array].copy()
    values.flat[-1] ^= 1
    layers[index] = replace(layers[index], arrays={**layers[index].arrays, array: values})
    return replace(block, layers=tuple(layers))


def change_layer(name: str, block: HlsBlock, **changes: Any) -> HlsBlock:
    """Return a block with other fields of a layer."""
    layers = [replace(layer, **changes) if layer.name == name else layer for layer in block.layers]
    return replace(block, layers=tuple(layers))


CHANGES: list[tuple[str, Callable[[HlsBlock], HlsBlock]]] = [
    ("fc1_q10_acc: weight[31, 15]", lambda block: change_array("fc1_q10_acc", "weight", block)),
    ("fc2_acc: bias[15]", lambda block: change_array("fc2_acc", "bias", block)),
    ("fc2: mult[15]", lambda block: change_array("fc2", "mult", block)),
    ("fc1_q10: shift[31]", lambda block: change_array("fc1_q10", "shift", block)),
    ("norm2: gamma[15]", lambda block: change_array("norm2", "gamma", block)),
    ("norm2: constants", lambda block: change_layer("norm2", block, constants={"shift": 3, "eps": 4})),
    ("fc1: type must be ap_int<16>", lambda block: change_layer("fc1", block, precision=INT16)),
    ("fc1: shape must be (7,)", lambda block: change_layer("fc1", block, shape=(7,))),
    ("result: inputs", lambda block: change_layer("result", block, inputs=("fc2", "residual"))),
    ("unequal: result", lambda block: replace(block, layers=block.layers[:-1])),
    ("unequal: their order", lambda block: replace(block, layers=block.layers[::-1])),
    ("outputs must be ('fc2',)", lambda block: replace(block, outputs=("fc2",))),
    ("residual: type", lambda block: replace(block, inputs=(replace(block.inputs[0], precision=INT8),))),
]


@pytest.mark.parametrize("io", Io)
@pytest.mark.parametrize(("message", "change"), CHANGES, ids=[message for message, _ in CHANGES])
def test_every_difference_is_named(
    message: str, change: Callable[[HlsBlock], HlsBlock], io: Io, tmp_path: Path
) -> None:
    network = random_network(np.random.default_rng(1), NETWORKS["test_tiny"])
    block = make_block(network, "mlp:0")
    graph = make_project(block, io, tmp_path)
    assert message in refusal(graph, change(block))
