"""The compiler: integer network + AccelConfig -> program, memory images, and how to read the results.

The order of the work is in hw/layers.py, hw/attention.py and hw/selection.py, the placement of weights in
hw/prefetch.py, and the waits in hw/dependency.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hw.check import check_program
from hw.config import AccelConfig
from hw.dependency import add_waits
from hw.isa import Descriptor, Memory, Opcode
from hw.layers import add_block, add_embedding, add_head
from hw.layout import RunLayout
from hw.prefetch import place_weights, ring_words
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.schedule import Schedule
from hw.selection import add_selector
from hw.site import OperandBuffers, Site
from hw.taps import Tap
from hw.tiling import ceil_div, transfer_words
from hw.weights import pack_tokens
from quant.bounds import MAX_EMBED_DIM
from quant.config import NetworkConfig
from quant.network import IntegerNetwork


@dataclass(frozen=True)
class Program(RunLayout):
    """Everything that `pictures` pictures of one network need on one accelerator.

    weights is the image of the WEIGHTS region, output_bytes the size of the OUTPUT region. layers names the layer that
    each descriptor works for.
    """

    descriptors: tuple[Descriptor, ...]
    weights: bytes
    output_bytes: int
    layers: tuple[str, ...]
    taps: tuple[Tap, ...]

    def program_bytes(self) -> bytes:
        """Return the descriptors as they lie in DDR."""
        return b"".join(descriptor.pack() for descriptor in self.descriptors)

    def read_tap(self, tap: Tap, output: bytes, token_counts: Sequence[int]) -> NDArray[Any]:
        """Return the array that the golden model calls tap.name.

        token_counts[i] is the live count of the tap's picture after selector i.
        """
        live = token_counts[tap.stage - 1] if tap.stage else self.network_config.num_tokens
        return tap.read(output, live, self.config)


def compile_network(network: IntegerNetwork, config: AccelConfig, taps: bool = False, pictures: int = 1) -> Program:
    """Compile a network for an accelerator; with taps, every layer's result is stored for comparison.

    One run of the program takes `pictures` pictures, and reads the weights once for all of them.
    Raises ValueError, with the numbers, if the network does not fit a memory or a limit of the accelerator.
    """
    topology = network.config
    _check_limits(topology, config, pictures)
    operands = OperandBuffers.of(topology, config)
    if operands.words >= config.weight_words:
        raise ValueError(
            f"weight_words must be more than {operands.words}, the keys and values of two heads of "
            f"{topology.num_tokens} tokens, not {config.weight_words}"
        )
    weight_ring = ring_words(config.weight_words - operands.words, config.weight_bytes)
    schedule = Schedule(config, topology.num_tokens, weight_ring, taps, pictures)
    layout = RunLayout(config, topology, pictures)
    results = [
        (schedule.output.reserve(layout.logits_bytes), schedule.output.reserve(2 * topology.num_tokens))
        for _ in range(pictures)
    ]
    residuals = [schedule.take(Memory.WIDE, topology.embed_dim // config.depth) for _ in range(pictures)]
    uniforms = [schedule.take(Memory.ACT, ceil_div(topology.num_tokens, config.depth), rows=1) for _ in residuals[:2]]
    sites = [
        Site(schedule.of_picture(picture), topology, operands, residual, uniforms[picture % 2])
        for picture, residual in enumerate(residuals)
    ]
    add_embedding(sites, network.patch_embed)
    selectors = iter(network.selectors)
    for number, block in enumerate(network.blocks):
        if number in topology.selectors:
            add_selector(sites, next(selectors))
        add_block(sites, block, f"blocks.{number}")
    logits = add_head(sites, network.norm, network.head)
    for site, result, (logits_offset, tokens_offset) in zip(sites, logits, results, strict=True):
        site.schedule.store("head", result, logits_offset)
        site.schedule.store_tokens("head", tokens_offset)
    schedule.emit("end", Opcode.END)

    for memory, available in ((Memory.ACT, config.act_words), (Memory.WIDE, config.wide_words)):
        needed = schedule.memories[memory].peak
        if needed > available:
            raise ValueError(
                f"{memory.name.lower()}_words must be at least {needed} for {topology.num_tokens} tokens of "
                f"{topology.embed_dim} channels{_of(pictures)}, not {available}"
            )
    position = pack_tokens(network.position_i16, config)
    image = position.ljust(schedule.transfer_bytes(residuals[0]), b"\0")
    placement = place_weights(schedule.steps, config, operands.words, image)
    program = Program(
        config=config,
        network_config=topology,
        pictures=pictures,
        descriptors=tuple(add_waits(placement.descriptors, config)),
        weights=bytes(placement.image),
        output_bytes=schedule.output.size,
        layers=tuple(placement.layers),
        taps=(*schedule.taps, *(layout.logits_tap(site.picture) for site in sites)) if taps else (),
    )
    check_program(program, config)
    return program


def _of(pictures: int) -> str:
    return f" of {pictures} pictures" if pictures > 1 else ""


def _check_limits(network: NetworkConfig, config: AccelConfig, pictures: int) -> None:
    if not 1 <= pictures <= config.pictures:
        raise ValueError(f"pictures must be in 1..{config.pictures}, not {pictures!r}")
    if network.embed_dim % config.depth:
        below = network.embed_dim // config.depth * config.depth
        fits = f"{below} or {below + config.depth}" if below else f"{config.depth}"
        raise ValueError(
            f"embed_dim must be a multiple of the array's depth {config.depth} (for example {fits}), "
            f"not {network.embed_dim}"
        )
    if network.embed_dim > MAX_EMBED_DIM:
        raise ValueError(f"embed_dim must be at most {MAX_EMBED_DIM}, not {network.embed_dim}")
    if network.num_tokens > config.max_tokens:
        raise ValueError(f"max_tokens must be at least {network.num_tokens}, not {config.max_tokens}")
    if pictures * len(network.selectors) > NUM_TOKEN_REGISTERS:
        limit = NUM_TOKEN_REGISTERS // pictures
        raise ValueError(f"selectors must be at most {limit}{_of(pictures)}, not {len(network.selectors)}")
    if network.num_heads > 255:
        raise ValueError(f"num_heads must be at most 255, not {network.num_heads}")
    norm_words = transfer_words(network.embed_dim // config.depth, config.param_bytes)
    if norm_words > config.param_words:
        raise ValueError(
            f"param_words must be at least {norm_words} for the LayerNorm of {network.embed_dim} channels, "
            f"not {config.param_words}"
        )
