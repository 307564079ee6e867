"""Our kernels as layers of hls4ml, registered once a process through its extension API.

A layer's parameters become weight variables, its constants members of its config struct. The kernels themselves are the
static headers in hw/hls/kernels; an hls4ml template here fills in names and types only.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from hls4ml.backends import get_backend
from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
from hls4ml.model.layers import Layer, register_layer

from hw.hls.block import INT16, INT32, UINT16, Kind

BACKEND = "Vitis"
KERNELS = Path(__file__).parent.resolve() / "kernels"

PARAMETERS = {
    Kind.LAYER_NORM: (("gamma", INT16), ("beta", INT32)),
    Kind.REQUANTIZE: (("mult", UINT16), ("shift", "ap_uint<6>")),
}
"""Arrays of a kernel in the order of its arguments, and their types."""

ROWS = "nnet::heatvit_rows<nnet::heatvit_{kernel}_kernel, {config}>({inputs}, {output}{parameters});"
ROW_PAIRS = "nnet::heatvit_row_pairs<nnet::heatvit_{kernel}_kernel, {config}>({inputs}, {output});"
WHOLE = "nnet::heatvit_{kernel}<{config}>({inputs}, {output});"
CALLS = {
    Kind.LAYER_NORM: ("heatvit_layer_norm.h", "layer_norm", ROWS),
    Kind.REQUANTIZE: ("heatvit_requantize.h", "requantize", ROWS),
    Kind.RESIDUAL: ("heatvit_requantize.h", "residual", ROW_PAIRS),
    Kind.GELU: ("heatvit_gelu.h", "gelu", ROWS),
    Kind.SIGMOID: ("heatvit_sigmoid.h", "sigmoid", ROWS),
    Kind.SOFTMAX: ("heatvit_softmax.h", "softmax", WHOLE),
    Kind.MEAN_JOIN: ("heatvit_selector.h", "mean_join", WHOLE),
    Kind.KEEP_SCORE: ("heatvit_selector.h", "keep_score", ROW_PAIRS),
    Kind.COMPACT: ("heatvit_selector.h", "compact", WHOLE),
}
"""Header, name and form of the call of each kernel."""


class _KernelLayer(Layer):
    """A layer whose attributes shape, constants and <parameter>_data come from an hw.hls.block.HlsLayer."""

    parameters: tuple[tuple[str, str], ...] = ()

    def initialize(self) -> None:
        """Declare the result and the parameters."""
        self.add_output_variable(list(self.get_attr("shape")))
        for name, precision in self.parameters:
            exact = self.model.config.backend.convert_precision_string(precision)
            self.add_weights_variable(name, var_name=f"{name}{{index}}", precision=exact)


class _ConfigTemplate(LayerConfigTemplate):
    """The config struct: tokens, channels in and out, and the constants."""

    def format(self, node: Any) -> str:
        """Return the C++ text."""
        read, written = node.get_input_variable().shape, node.get_output_variable().shape
        members = {
            "n_tokens": math.prod(read[:-1]),
            "n_in": read[-1],
            "n_out": written[-1],
            **node.get_attr("constants"),
        }
        lines = "".join(f"    static const long long {name} = {value}LL;\n" for name, value in members.items())
        return f"struct config{node.index} {{\n{lines}}};\n"


class _CallTemplate(FunctionCallTemplate):
    """The call of a kernel in the top function."""

    def __init__(self, layer_class: type[Layer], header: str, kernel: str, call: str) -> None:
        super().__init__(layer_class, include_header=[f"nnet_utils/{header}"])
        self.kernel, self.call = kernel, call

    def format(self, node: Any) -> str:
        """Return the C++ text."""
        parameters = "".join(f", {node.get_weights(name).name}" for name, _ in node.parameters)
        return self.call.format(
            kernel=self.kernel,
            config=f"config{node.index}",
            inputs=", ".join(node.get_input_variable(name).name for name in node.inputs),
            output=node.get_output_variable().name,
            parameters=parameters,
        )


@cache
def register_kernels() -> None:
    """Make hls4ml know our layers, their templates and the headers that a project needs."""
    backend = get_backend(BACKEND)
    for kind, (header, kernel, call) in CALLS.items():
        layer_class = type(kind.value, (_KernelLayer,), {"parameters": PARAMETERS.get(kind, ())})
        register_layer(kind.value, layer_class)
        for template in (_ConfigTemplate(layer_class), _CallTemplate(layer_class, header, kernel, call)):
            # register_template takes a class without arguments; one class serves all our layers.
            backend.register_template(lambda template=template: template)
    for header_file in sorted(KERNELS.glob("*.h")):
        backend.register_source(header_file)
