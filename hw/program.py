"""The compiler: integer network + AccelConfig -> program, memory images, and how to read the results.

The order of the work is in hw/layers.py and hw/selection.py, the placement of weights in hw/prefetch.py, and the waits
in hw/dependency.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.check import check_program
from hw.config import AccelConfig
from hw.dependency import add_waits
from hw.isa import Descriptor, Memory, Opcode
from hw.layers import OperandBuffers, Site, add_block, add_embedding, add_head
from hw.prefetch import place_weights, ring_words
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.schedule import Schedule
from hw.selection import add_selector
from hw.taps import Tap
from hw.tiling import Channels, ceil_div, transfer_words
from hw.weights import pack_tokens
from quant.config import NetworkConfig
from quant.network import I8, I16, U16, IntegerNetwork

MAX_DIM = 1024
"""LayerNorm's sums are proven for this many channels (quant.approx.layer_norm)."""


@dataclass(frozen=True)
class Program:
    """Everything that a picture of one network needs on one accelerator.

    weights is the image of the WEIGHTS region; input_bytes and output_bytes are the sizes of the other two. layers
    names the layer that each descriptor works for.
    """

    config: AccelConfig
    network_config: NetworkConfig
    descriptors: tuple[Descriptor, ...]
    weights: bytes
    input_bytes: int
    output_bytes: int
    layers: tuple[str, ...]
    taps: tuple[Tap, ...]

    def program_bytes(self) -> bytes:
        """Return the descriptors as they lie in DDR."""
        return b"".join(descriptor.pack() for descriptor in self.descriptors)

    def pack_input(self, patches_i8: I8) -> bytes:
        """Return the INPUT region of a picture: patches_i8 (num_patches, patch_dim); the CLS row is added as zeros.

        Raises ValueError if the shape or type is another.
        """
        shape = (self.network_config.num_patches, self.network_config.patch_dim)
        if patches_i8.shape != shape or patches_i8.dtype != np.int8:
            raise ValueError(f"patches_i8 must be int8 {shape}, not {patches_i8.dtype} {patches_i8.shape}")
        return pack_tokens(np.pad(patches_i8, ((1, 0), (0, 0))), self.config).ljust(self.input_bytes, b"\0")

    def logits(self, output: bytes) -> I16:
        """Return the (num_classes,) logits of the OUTPUT region."""
        logits_i16: I16 = _logits_tap(self.network_config, self.config).read(output, 1, self.config)[0]
        return logits_i16

    def tokens(self, output: bytes, count: int) -> U16:
        """Return the `count` tokens that reached the last block: CLS is 0, patch p is p + 1, the package 65535."""
        offset = _logits_bytes(self.network_config, self.config)
        return np.frombuffer(output, "<u2", count, offset).astype(np.uint16)

    def read_tap(self, tap: Tap, output: bytes, token_counts: list[int]) -> NDArray[Any]:
        """Return the array that the golden model calls tap.name. token_counts[i] is the live count after selector i."""
        live = token_counts[tap.stage - 1] if tap.stage else self.network_config.num_tokens
        return tap.read(output, live, self.config)


def _logits_bytes(network: NetworkConfig, config: AccelConfig) -> int:
    words = ceil_div(network.num_classes, config.depth)
    return transfer_words(words, config.wide_bytes) * config.wide_bytes


def _logits_tap(network: NetworkConfig, config: AccelConfig) -> Tap:
    """Return the tap of the logits, which a program always stores, at the start of OUTPUT."""
    classes = Channels.dense(network.num_classes)
    return Tap("head", 0, Memory.WIDE, "int16", 0, classes.words(config.depth), classes.positions, rows=1)


def compile_network(network: IntegerNetwork, config: AccelConfig, taps: bool = False) -> Program:
    """Compile a network for an accelerator; with taps, every layer's result is stored for comparison.

    Raises ValueError, with the numbers, if the network does not fit a memory or a limit of the accelerator.
    """
    topology = network.config
    _check_limits(topology, config)
    operands = OperandBuffers.of(topology, config)
    if operands.words >= config.weight_words:
        raise ValueError(
            f"weight_words must be more than {operands.words}, the keys and values of two heads of "
            f"{topology.num_tokens} tokens, not {config.weight_words}"
        )
    weight_ring = ring_words(config.weight_words - operands.words, config.weight_bytes)
    schedule = Schedule(config, topology.num_tokens, weight_ring, taps)
    logits_offset = schedule.reserve_output(_logits_bytes(topology, config))
    tokens_offset = schedule.reserve_output(2 * topology.num_tokens)
    residual = schedule.take(Memory.WIDE, topology.embed_dim // config.depth)
    logits = schedule.take(Memory.WIDE, ceil_div(topology.num_classes, config.depth), rows=1)
    uniform = schedule.take(Memory.ACT, ceil_div(topology.num_tokens, config.depth), rows=1)

    site = Site(schedule, topology, operands, residual, uniform)
    add_embedding(site, network.patch_embed)
    for number, block in enumerate(network.blocks):
        if number in topology.selectors:
            add_selector(site, network.selectors[schedule.stage])
        add_block(site, block, f"blocks.{number}")
    add_head(site, network.norm, network.head, logits)
    schedule.store("head", logits, logits_offset)
    schedule.store_tokens("head", tokens_offset)
    schedule.emit("end", Opcode.END)

    for memory, available in ((Memory.ACT, config.act_words), (Memory.WIDE, config.wide_words)):
        needed = schedule.memories[memory].peak
        if needed > available:
            raise ValueError(
                f"{memory.name.lower()}_words must be at least {needed} for {topology.num_tokens} tokens of "
                f"{topology.embed_dim} channels, not {available}"
            )
    position = pack_tokens(network.position_i16, config)
    image = position.ljust(schedule.transfer_bytes(residual), b"\0")
    placement = place_weights(schedule.steps, config, operands.words, image)
    program = Program(
        config=config,
        network_config=topology,
        descriptors=tuple(add_waits(placement.descriptors, config)),
        weights=bytes(placement.image),
        input_bytes=_input_bytes(topology, config),
        output_bytes=schedule.output_bytes,
        layers=tuple(placement.layers),
        taps=(*schedule.taps, _logits_tap(topology, config)) if taps else (),
    )
    check_program(program, config)
    return program


def _input_bytes(network: NetworkConfig, config: AccelConfig) -> int:
    tiles, words = ceil_div(network.num_tokens, config.rows), ceil_div(network.patch_dim, config.depth)
    return transfer_words(tiles * words, config.act_bytes) * config.act_bytes


def _check_limits(network: NetworkConfig, config: AccelConfig) -> None:
    if network.embed_dim % config.depth:
        below = network.embed_dim // config.depth * config.depth
        fits = f"{below} or {below + config.depth}" if below else f"{config.depth}"
        raise ValueError(
            f"embed_dim must be a multiple of the array's depth {config.depth} (for example {fits}), "
            f"not {network.embed_dim}"
        )
    if network.embed_dim > MAX_DIM:
        raise ValueError(f"embed_dim must be at most {MAX_DIM}, not {network.embed_dim}")
    if network.num_tokens > config.max_tokens:
        raise ValueError(f"max_tokens must be at least {network.num_tokens}, not {config.max_tokens}")
    if len(network.selectors) > NUM_TOKEN_REGISTERS:
        raise ValueError(f"selectors must be at most {NUM_TOKEN_REGISTERS}, not {len(network.selectors)}")
    if network.num_heads > 255:
        raise ValueError(f"num_heads must be at most 255, not {network.num_heads}")
    norm_words = transfer_words(network.embed_dim // config.depth, config.param_bytes)
    if norm_words > config.param_words:
        raise ValueError(
            f"param_words must be at least {norm_words} for the LayerNorm of {network.embed_dim} channels, "
            f"not {config.param_words}"
        )
