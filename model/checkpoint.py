"""Network files: safetensors with the topology and the normalisation beside the weights; plain timm weights too.

Nothing here can execute what it reads, and a network with a missing, misshapen or non-finite tensor is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.approx import Kernels
from model.files import whole_file
from model.npz import read_npz
from model.vit import Normalisation, VisionTransformer
from quant.config import NetworkConfig

FORMAT = "heatvit-network-2"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file whose metadata is one JSON text; the file appears whole or not at all."""
    with whole_file(path) as partial:
        content = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(content, partial, {"json": json.dumps(metadata)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, metadata) of a safetensors file. Raises ValueError if it is missing or corrupt."""
    if not path.is_file():
        raise ValueError(f"checkpoint must be a file that exists, not {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("json", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is corrupt: {error}") from error
    return tensors, metadata if isinstance(metadata, dict) else {}


def save_network(path: Path, network: VisionTransformer) -> None:
    """Write weights, topology, normalisation and how it computes to one safetensors file."""
    metadata = {
        "format": FORMAT,
        "config": network.config.to_dict(),
        "normalisation": asdict(network.normalisation),
        "kernels": network.kernels.value,
        "has_package": network.has_package,
    }
    write_tensors(path, network.state_dict(), metadata)


def load_network(path: Path) -> VisionTransformer:
    """Return the network of a file of `save_network`. Raises ValueError naming the file and what is wrong with it."""
    if path.suffix != ".safetensors":
        raise ValueError(f"checkpoint must be a .safetensors file of heatvit train, not {str(path)!r}")
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path} must be of format {FORMAT}, not {metadata.get('format')!r}")
    try:
        config = NetworkConfig.from_dict(metadata["config"])
        normalisation = Normalisation(**{name: tuple(values) for name, values in metadata["normalisation"].items()})
        kernels = Kernels(metadata.get("kernels", Kernels.TRAINED.value))
        network = VisionTransformer(config, normalisation, kernels, bool(metadata.get("has_package", True)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} describes no network: {error}") from error
    check_tensors(tensors, network.state_dict(), str(path))
    network.load_state_dict(tensors)
    return network


def load_timm(path: Path, config: NetworkConfig, normalisation: Normalisation) -> VisionTransformer:
    """Return a network with the weights of a plain timm state dict (.safetensors, .npz or .pth).

    A file without selectors leaves those of the config freshly initialised. Raises ValueError as `load_network`, and
    for a file of `save_network`, which has a topology and a normalisation of its own.
    """
    if _is_ours(path):
        raise ValueError(f"weights {path} must be a plain state dict with timm's names, not a network of heatvit train")
    return _from_state(_read_state(path), path, config, normalisation)


def load_any(path: Path, config: NetworkConfig, normalisation: Normalisation) -> VisionTransformer:
    """Return the network of a file of `save_network`, or of a plain timm state dict by this topology.

    A state dict without selectors gives the network without selectors. Raises ValueError as `load_network`.
    """
    if _is_ours(path):
        return load_network(path)
    state = _read_state(path)
    if not any(name.startswith("selectors.") for name in state):
        config = replace(config, selectors=())
    return _from_state(state, path, config, normalisation)


def load_dense(path: Path, config: NetworkConfig, normalisation: Normalisation) -> VisionTransformer:
    """Return the network without selectors of a file as `load_any` takes it.

    A plain timm state dict gets this topology, whose selectors do not count, and this normalisation. Raises ValueError
    as `load_network`, and if the file holds another topology or a network with selectors.
    """
    config = replace(config, selectors=())
    network = load_any(path, config, normalisation)
    found = network.config.to_dict()
    for name, value in config.to_dict().items():
        if found[name] != value:
            raise ValueError(f"the network of checkpoint {path} must have {name} {value!r}, not {found[name]!r}")
    return network


def weights_digest(network: nn.Module) -> str:
    """Return one SHA-256, as hexadecimal digits, over the names, shapes and values of a network's tensors."""
    total = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _from_state(
    state_dict: Mapping[str, Tensor], path: Path, config: NetworkConfig, normalisation: Normalisation
) -> VisionTransformer:
    """Build a network from timm's tensors; selectors that they lack stay freshly initialised.

    Such weights were trained with the exact functions, which the polynomials of delta 1 approximate.
    """
    tensors = {name: tensor.float() for name, tensor in state_dict.items()}
    kernels = Kernels.FUSED if (config.delta1, config.delta2) == (1.0, 1.0) else Kernels.TRAINED
    network = VisionTransformer(config, normalisation, kernels)
    state = network.state_dict()
    if not any(name.startswith("selectors.") for name in tensors):
        tensors |= {name: tensor for name, tensor in state.items() if name.startswith("selectors.")}
    check_tensors(tensors, state, str(path))
    network.load_state_dict(tensors)
    return network


def _is_ours(path: Path) -> bool:
    return path.suffix == ".safetensors" and read_tensors(path)[1].get("format") == FORMAT


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if path.suffix not in (".npz", ".pth") or not path.is_file():
        raise ValueError(f"weights must be a .safetensors, .npz or .pth file that exists, not {str(path)!r}")
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if wrong := [name for name, array in arrays.items() if array.dtype.kind != "f"]:
            raise ValueError(f"array {wrong[0]!r} of {path} must hold floats, not {arrays[wrong[0]].dtype}")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a broken stream leads it to
        raise ValueError(f"weights {path} are corrupt: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):  # as DeiT's authors publish them
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights {path} must hold tensors by name")
    return state


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError naming the first tensor that is missing, unknown, misshapen, not float or not finite."""
    if missing := sorted(set(expected) - set(tensors)):
        raise ValueError(f"{source} must hold tensor {missing[0]!r} ({len(missing)} missing)")
    if unknown := sorted(set(tensors) - set(expected)):
        raise ValueError(f"{source} must not hold tensor {unknown[0]!r} ({len(unknown)} unknown)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(expected[name].shape)}, not {tuple(tensor.shape)}"
            raise ValueError(f"tensor {name!r} of {source} must have shape {shapes}")
        if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise ValueError(f"tensor {name!r} of {source} must hold finite floats")
