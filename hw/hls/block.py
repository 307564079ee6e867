"""What a block of the HLS route is: layers with exact integer types between named tensors, and golden taps they equal.

Nothing here needs hls4ml: hw/hls/project.py turns a block into an hls4ml project, hw/hls/guards.py compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from numpy.typing import NDArray

INT8, INT16, INT32 = "ap_int<8>", "ap_int<16>", "ap_int<32>"
UINT8, UINT16 = "ap_uint<8>", "ap_uint<16>"
"""Types of tensors and parameters, as C++ names them."""

LIVE = "live"
"""Name of the input that says how many columns of a row of scores, or rows of a token set, are in use.

For a set, a second value says whether the last of them is a package token."""


Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Parameters of a layer by name."""


class Io(Enum):
    """How tensors travel: as arrays, all values at once, or through FIFOs, one token a word."""

    PARALLEL = "parallel"
    STREAM = "stream"


class Kind(Enum):
    """A layer's kind by its class in hls4ml: DENSE is hls4ml's own, the others are ours (hw/hls/layers.py)."""

    DENSE = "Dense"
    LAYER_NORM = "HeatvitLayerNorm"
    REQUANTIZE = "HeatvitRequantize"
    RESIDUAL = "HeatvitResidual"
    GELU = "HeatvitGelu"
    SIGMOID = "HeatvitSigmoid"
    SOFTMAX = "HeatvitSoftmax"
    MEAN_JOIN = "HeatvitMeanJoin"
    KEEP_SCORE = "HeatvitKeepScore"
    COMPACT = "HeatvitCompact"


@dataclass(frozen=True)
class Tensor:
    """An input: shape (tokens, channels) or (channels,), C++ type, and the golden tap that it is cut from.

    The tap of `live` is the token list that the selector before left, "" if there is none.
    """

    name: str
    shape: tuple[int, ...]
    precision: str
    tap: str = ""


@dataclass(frozen=True)
class HlsLayer:
    """One layer and its result.

    arrays: the parameters; weight is (out, in) as in quant.network, the others (channels,). constants are compile-time
    integers. taps: the golden taps whose channels, one after the other, the result equals; a tap of one row equals
    every row. Empty if the golden model has no tap there.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    precision: str
    arrays: Arrays = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    taps: tuple[str, ...] = ()


@dataclass(frozen=True)
class HlsBlock:
    """A part of a network: inputs, layers in order, and the layers whose results leave it.

    is_token_set: a call takes all tokens of a picture, (tokens, channels); else one token or one row.
    row: which row of the input tap a call takes, where the block sees one only.
    """

    name: str
    inputs: tuple[Tensor, ...]
    layers: tuple[HlsLayer, ...]
    outputs: tuple[str, ...]
    is_token_set: bool = False
    row: int | None = None

    @property
    def project(self) -> str:
        """Name of the top function, and of the files."""
        return "heatvit_" + self.name.replace(":", "_")

    @property
    def results(self) -> tuple[HlsLayer, ...]:
        """The layers of the outputs, in their order."""
        layers = {layer.name: layer for layer in self.layers}
        return tuple(layers[name] for name in self.outputs)

    @property
    def has_live(self) -> bool:
        """Whether a second input says how much of the first is in use."""
        return any(tensor.name == LIVE for tensor in self.inputs)
