"""One .safetensors file per integer network: tensors by their path, topology and scalars as JSON in the metadata.

Loading executes nothing and trusts nothing: every name, shape, type and range is checked against the topology.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from quant.approx import GELU_OFFSET_MIN
from quant.bounds import prove_bounds
from quant.config import NetworkConfig
from quant.fixed import SHIFT_MAX, WEIGHT_MAX
from quant.network import Block, IntegerNetwork, Selector

METADATA_KEY = "heatvit_integer_network"
FORMAT_VERSION = 3

SCALAR_RANGES: dict[str, tuple[int, int]] = {
    "shift": (0, 31),
    "eps": (1, (1 << 32) - 1),
    "out_mult": (0, 65535),
    "out_shift": (0, SHIFT_MAX),
    "out_offset": (GELU_OFFSET_MIN, 0),
    "score_mult": (0, 65535),
    "score_shift": (0, SHIFT_MAX),
    "context_mult": (1 << 15, 65535),
    "context_shift": (0, 31),
    "pool_mult": (1 << 15, 65535),
    "pool_shift": (0, 31),
    "threshold_u16": (0, 65535),
}
"""Allowed values of every integer scalar, by the last part of its name; context and pool are those of row_scale."""

TENSOR_DTYPES = {"i8": np.int8, "u8": np.uint8, "i16": np.int16, "u16": np.uint16, "i32": np.int32}
"""Type of a tensor, by the suffix of its name."""


@dataclass(frozen=True)
class _Layout:
    """What a topology asks for: the shape of every tensor and the names of the scalars."""

    shapes: dict[str, tuple[int, ...]]
    integers: set[str]
    scales: set[str]


def save_network(network: IntegerNetwork, path: str | Path) -> None:
    """Write a network. Raises ValueError if an accumulator bound does not hold, or naming what is out of range."""
    tensors: dict[str, NDArray[Any]] = {}
    scalars: dict[str, int | float] = {}
    _flatten(network, "", tensors, scalars)
    _check(network.config, tensors, scalars)
    prove_bounds(network)
    header = {"version": FORMAT_VERSION, "config": network.config.to_dict(), "scalars": scalars}
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={METADATA_KEY: json.dumps(header, sort_keys=True)})


def load_network(path: str | Path) -> IntegerNetwork:
    """Read a network. Raises ValueError, in one line, naming what is wrong with the file."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        config, scalars = _parse_header(metadata, len(tensors))
        _check(config, tensors, scalars)
        network: IntegerNetwork = _build(IntegerNetwork, "", config, tensors, scalars)
        prove_bounds(network)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return network


def _parse_header(metadata: Mapping[str, str], num_tensors: int) -> tuple[NetworkConfig, dict[str, Any]]:
    if METADATA_KEY not in metadata:
        raise ValueError(f"not an integer network: the metadata has no {METADATA_KEY!r}")
    try:
        header = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metadata {METADATA_KEY!r} is not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("version") != FORMAT_VERSION:
        version = header.get("version") if isinstance(header, dict) else None
        raise ValueError(f"format version must be {FORMAT_VERSION}, not {version!r}")
    values, scalars = header.get("config"), header.get("scalars")
    if not isinstance(values, dict) or not isinstance(scalars, dict):
        raise ValueError("metadata must hold the objects 'config' and 'scalars'")
    config = NetworkConfig.from_dict(values)
    if config.depth > num_tensors:  # before a layout of that depth is built
        raise ValueError(f"depth must not exceed the number of tensors, {num_tensors}, not {config.depth!r}")
    return config, scalars


def _flatten(value: Any, path: str, tensors: dict[str, NDArray[Any]], scalars: dict[str, int | float]) -> None:
    """Collect the leaves of nested dataclasses and tuples under dotted names; the config travels separately."""
    if isinstance(value, NetworkConfig):
        return
    if isinstance(value, np.ndarray):
        tensors[path] = value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            _flatten(item, f"{path}.{index}", tensors, scalars)
    elif is_dataclass(value):
        for field in fields(value):
            _flatten(getattr(value, field.name), f"{path}.{field.name}".lstrip("."), tensors, scalars)
    else:
        scalars[path] = value


def _build(
    cls: type[Any], path: str, config: NetworkConfig, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any]
) -> Any:
    """Inverse of _flatten for checked leaves: construct dataclass `cls` from those under `path`."""
    counts = {"blocks": (Block, config.depth), "selectors": (Selector, len(config.selectors))}
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        full = f"{path}.{name}".lstrip(".")
        if hint is NetworkConfig:
            values[name] = config
        elif name in counts:
            item, count = counts[name]
            values[name] = tuple(_build(item, f"{full}.{index}", config, tensors, scalars) for index in range(count))
        elif is_dataclass(hint):
            values[name] = _build(hint, full, config, tensors, scalars)  # type: ignore[arg-type]
        else:
            values[name] = tensors[full] if full in tensors else scalars[full]
    return cls(**values)


def _layout(config: NetworkConfig) -> _Layout:
    """The tensors and scalars of a topology."""
    dim, heads, head_dim = config.embed_dim, config.num_heads, config.head_dim
    layout = _Layout(
        {"input_lut_i8": (config.in_chans, 256), "position_i16": (config.num_tokens, dim)},
        set(),
        {"residual_scale", "logit_scale"},
    )
    _add_linear(layout, "patch_embed", (dim, config.patch_dim))
    for number in range(config.depth):
        block = f"blocks.{number}"
        for name in ("q", "k", "v", "proj"):
            _add_linear(layout, f"{block}.{name}", (dim, dim))
        _add_norm(layout, f"{block}.norm1", dim)
        _add_norm(layout, f"{block}.norm2", dim)
        _add_gelu(layout, f"{block}.fc1", (config.mlp_hidden, dim))
        _add_linear(layout, f"{block}.fc2", (dim, config.mlp_hidden))
        layout.shapes[f"{block}.package_bias_i32"] = (heads,)
        layout.integers.update(f"{block}.{name}_{part}" for name in ("score", "context") for part in ("mult", "shift"))
    for number in range(len(config.selectors)):
        selector, hidden = f"selectors.{number}", config.head_branch_hidden
        _add_norm(layout, f"{selector}.norm", dim)
        _add_gelu(layout, f"{selector}.local", (heads, head_dim // 2, head_dim))
        _add_gelu(layout, f"{selector}.token1", (heads, head_dim // 2, head_dim))
        _add_gelu(layout, f"{selector}.token2", (heads, head_dim // 4, head_dim // 2))
        _add_linear(layout, f"{selector}.token_score", (heads, 1, head_dim // 4))
        _add_gelu(layout, f"{selector}.head1", (hidden, dim))
        _add_linear(layout, f"{selector}.head_score", (heads, hidden))
        layout.integers.update(f"{selector}.{name}" for name in ("pool_mult", "pool_shift", "threshold_u16"))
    _add_norm(layout, "norm", dim)
    _add_linear(layout, "head", (config.num_classes, dim))
    return layout


def _add_linear(layout: _Layout, path: str, shape: tuple[int, ...]) -> None:
    layout.shapes[f"{path}.weight_i8"] = shape
    for name in ("bias_i32", "mult_u16", "shift_u8"):
        layout.shapes[f"{path}.{name}"] = shape[:-1]


def _add_gelu(layout: _Layout, path: str, shape: tuple[int, ...]) -> None:
    _add_linear(layout, f"{path}.linear", shape)
    layout.integers.update(f"{path}.{name}" for name in ("out_mult", "out_shift", "out_offset"))


def _add_norm(layout: _Layout, path: str, dim: int) -> None:
    layout.shapes.update({f"{path}.gamma_i16": (dim,), f"{path}.beta_i32": (dim,)})
    layout.integers.update((f"{path}.shift", f"{path}.eps"))


def _check(config: NetworkConfig, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first tensor or scalar that is missing, unknown or outside its type or range."""
    layout = _layout(config)
    _check_names("tensor", set(tensors), set(layout.shapes))
    _check_names("scalar", set(scalars), layout.integers | layout.scales)
    for name, shape in layout.shapes.items():
        tensor, dtype = tensors[name], np.dtype(TENSOR_DTYPES[name.rsplit("_", 1)[1]])
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(f"tensor {name} must be {dtype} {shape}, not {tensor.dtype} {tensor.shape}")
        if name.endswith("weight_i8") and tensor.min() < -WEIGHT_MAX:
            raise ValueError(f"tensor {name} must be in -{WEIGHT_MAX}..{WEIGHT_MAX}, not {tensor.min()}")
        if name.endswith("shift_u8") and tensor.max() > SHIFT_MAX:
            raise ValueError(f"tensor {name} must be in 0..{SHIFT_MAX}, not {tensor.max()}")
    for name in sorted(layout.integers):
        low, high = SCALAR_RANGES[name.rsplit(".", 1)[-1]]
        value = scalars[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"scalar {name} must be an integer in {low}..{high}, not {value!r}")
    for name in sorted(layout.scales):
        value = scalars[name]
        if type(value) is not float or not (math.isfinite(value) and value > 0):
            raise ValueError(f"scalar {name} must be a positive finite float, not {value!r}")


def _check_names(kind: str, found: set[str], expected: set[str]) -> None:
    if missing := sorted(expected - found):
        raise ValueError(f"{kind} {missing[0]} is missing")
    if unknown := sorted(found - expected):
        raise ValueError(f"{kind} {unknown[0]} is not part of this topology")
