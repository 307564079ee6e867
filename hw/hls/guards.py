"""Refusal of conversions that went wrong: an hls4ml graph must be exactly the block that it was made from.

hls4ml 1.3.0 converts some things silently into others (docs/hls.md lists them), above all through its PyTorch front
end. `check_conversion` takes any graph, also one that a front end made of layers with the same names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.hls.block import INT8, INT32, HlsBlock, HlsLayer, Kind

HELPERS = {"Clone"}
"""Layers that hls4ml adds and that move values only."""
DENSE_CLASSES = {"Dense", "PointwiseConv1D"}
"""What hls4ml makes of a product: the second for every token of a set."""


def check_conversion(graph: Any, block: HlsBlock) -> None:
    """Raise ValueError, naming layer and difference, unless graph has the block's layers, shapes, types and parameters.

    graph is an hls4ml ModelGraph after its flows. Compared are: inputs; every layer's class, order and inputs; shape
    and type of every result; weights as a matrix (out, in), whatever order hls4ml keeps them in; biases and all other
    parameters, value by value; the types of weights, biases and accumulators.
    """
    found = {layer.name: layer for layer in graph.get_layers() if layer.class_name not in HELPERS}
    expected = [*(tensor.name for tensor in block.inputs), *(layer.name for layer in block.layers)]
    if list(found) != expected:
        unequal = sorted(set(found) ^ set(expected)) or ["their order"]
        raise ValueError(
            f"block {block.name}: hls4ml must have the layers of the network; unequal: {', '.join(unequal)}"
        )
    outputs = tuple(_source(graph, name) for name in graph.outputs)
    if outputs != block.outputs:
        raise ValueError(f"block {block.name}: the outputs must be {block.outputs}, not {outputs} as hls4ml made them")
    for tensor in block.inputs:
        _check_result(block, found[tensor.name], tensor.shape, tensor.precision)
    for layer in block.layers:
        _check_layer(block, graph, found[layer.name], layer)


def _check_layer(block: HlsBlock, graph: Any, node: Any, layer: HlsLayer) -> None:
    sources = tuple(_source(graph, name) for name in node.inputs)
    if sources != layer.inputs:
        raise _refusal(block, layer.name, "inputs", sources, layer.inputs)
    _check_result(block, node, layer.shape, layer.precision)
    allowed = DENSE_CLASSES if layer.kind is Kind.DENSE else {layer.kind.value}
    if node.class_name not in allowed:
        raise _refusal(block, layer.name, "class", node.class_name, " or ".join(sorted(allowed)))
    for name, array in layer.arrays.items():
        values = _matrix(node) if name == "weight" else np.asarray(node.get_weights(name).data)
        if values.shape != array.shape:
            raise _refusal(block, layer.name, f"shape of {name}", values.shape, array.shape)
        if (difference := np.argwhere(values != array)).size:
            place = tuple(difference[0].tolist())
            raise _refusal(block, layer.name, f"{name}{list(place)}", values[place], array[place])
    if layer.kind is Kind.DENSE:
        channels, depth = int(node.get_input_variable().shape[-1]), layer.arrays["weight"].shape[1]
        if channels != depth:
            raise _refusal(block, layer.name, "channels read", channels, depth)
        weight, bias = (_type(node.get_weights(name).type) for name in ("weight", "bias"))
        for name, found, precision in (
            ("weight", weight, INT8),
            ("bias", bias, INT32),
            ("accumulator", _type(node.get_attr("accum_t")), INT32),
        ):
            if found != precision:
                raise _refusal(block, layer.name, f"type of {name}", found, precision)
    elif node.get_attr("constants") != layer.constants:
        raise _refusal(block, layer.name, "constants", node.get_attr("constants"), layer.constants)


def _check_result(block: HlsBlock, node: Any, shape: tuple[int, ...], precision: str) -> None:
    variable = node.get_output_variable()
    if tuple(variable.shape) != shape:
        raise _refusal(block, node.name, "shape", tuple(variable.shape), shape)
    if (found := _type(variable.type)) != precision:
        raise _refusal(block, node.name, "type", found, precision)


def _type(named: Any) -> str:
    """Return a type as C++ names it: ap_int<8>, ap_fixed<16,6>."""
    return f"ap_{named.precision}"


def _source(graph: Any, name: str) -> str:
    """Return the name of the tensor that a layer reads, copies of it followed back."""
    for layer in graph.get_layers():
        if layer.class_name in HELPERS and name in layer.outputs:
            return _source(graph, layer.inputs[0])
    return name


def _matrix(node: Any) -> NDArray[Any]:
    """Return the weights of a product as (out, in)."""
    data = np.asarray(node.get_weights("weight").data)
    if node.get_attr("_weights_transposed", False):  # (out, 1, in) or (out, in), for reuse of multipliers
        return data.reshape(data.shape[0], -1)
    return data.reshape(-1, data.shape[-1]).T  # (1, in, out) or (in, out)


def _refusal(block: HlsBlock, layer: str, what: str, found: object, expected: object) -> ValueError:
    return ValueError(f"block {block.name}, layer {layer}: {what} must be {expected}, not {found} as hls4ml made it")
