"""Placement of weights: the DDR image, LOADs ahead of their layers, and the addresses that the layers read."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hw.allocate import Ring
from hw.config import AccelConfig
from hw.isa import Descriptor, Memory, Opcode, Region
from hw.step import Chunk, Step
from hw.tiling import TRANSFER_BYTES, round_up, transfer_words

LOADS_AHEAD = 2
"""Chunks loaded after each descriptor that frees one. Two let the lead grow by one a layer until the rings are full,
without holding the first layers back behind a long run of LOADs."""

_BASE_FIELDS = {Memory.WEIGHT: "aux_base", Memory.PARAM: "param_base"}


@dataclass
class Placement:
    """What place_weights gives: the descriptors with their LOADs, the layer of each, and the WEIGHTS region."""

    image: bytearray
    descriptors: list[Descriptor] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def append(self, descriptor: Descriptor, layer: str) -> None:
        """Add a descriptor that works for a layer."""
        self.descriptors.append(descriptor)
        self.layers.append(layer)


def place_weights(steps: Sequence[Step], config: AccelConfig, weight_base: int, image: bytes) -> Placement:
    """Insert the LOADs of all chunks and fill in param_base and aux_base of the steps that use them.

    WEIGHT from weight_base on and all of PARAM are rings: a chunk is loaded as soon, in program order, as its words
    are free, and stays until the last step that uses it. image is the start of the WEIGHTS region, already in use;
    chunks follow it. Every chunk must fit an empty ring. Raises ValueError if chunks that are used by turns do not fit
    a ring together.
    """
    placement = Placement(bytearray(image))
    sizes = {
        Memory.WEIGHT: ring_words(config.weight_words - weight_base, config.weight_bytes),
        Memory.PARAM: ring_words(config.param_words, config.param_bytes),
    }
    rings = {
        Memory.WEIGHT: Ring(weight_base, sizes[Memory.WEIGHT]),
        Memory.PARAM: Ring(0, sizes[Memory.PARAM]),
    }
    word_bytes = {Memory.WEIGHT: config.weight_bytes, Memory.PARAM: config.param_bytes}
    last_step = {id(step.chunk): index for index, step in enumerate(steps)}
    waiting = deque({id(step.chunk): (step.chunk, step.layer) for step in steps if step.chunk}.values())
    placed: dict[int, dict[Memory, int]] = {}  # base of each chunk in each ring
    held: dict[Memory, deque[int]] = {memory: deque() for memory in rings}

    def load_next() -> Memory | None:
        """Load the next chunk if it fits; return the memory in which it does not."""
        chunk, layer = waiting[0]
        parts = _parts(chunk)
        words = {memory: transfer_words(len(data) // word_bytes[memory], word_bytes[memory]) for memory, data in parts}
        for memory, count in words.items():
            if not rings[memory].fits(count):
                return memory
        waiting.popleft()
        bases = placed[id(chunk)] = {memory: rings[memory].take(count) for memory, count in words.items()}
        for memory, data in parts:
            held[memory].append(id(chunk))
            length = words[memory] * word_bytes[memory]
            placement.append(
                Descriptor(
                    Opcode.LOAD,
                    memory=memory,
                    region=Region.WEIGHTS,
                    offset=len(placement.image),
                    length=length,
                    dst_base=bases[memory],
                ),
                layer,
            )
            placement.image += data.ljust(round_up(length, TRANSFER_BYTES), b"\0")
        return None

    load_next()  # the array can start on the first row part that follows
    for index, step in enumerate(steps):
        while step.chunk and id(step.chunk) not in placed:
            if full := load_next():
                raise ValueError(
                    f"{full.name.lower()}_words must hold {step.layer} beside the layers that take turns with it, "
                    f"not {len(held[full])} chunks of them in {sizes[full]} words"
                )
        bases = placed[id(step.chunk)] if step.chunk else {}
        addresses = {_BASE_FIELDS[memory]: base for memory, base in bases.items()}
        for descriptor in step.descriptors:
            placement.append(replace(descriptor, **addresses), step.layer)
        if not step.chunk:
            continue
        for memory in bases:
            while held[memory] and last_step[held[memory][0]] <= index:
                held[memory].popleft()
                rings[memory].release()
        for _ in range(min(LOADS_AHEAD, len(waiting))):
            load_next()
    return placement


def ring_words(words: int, word_bytes: int) -> int:
    """Words of a ring in `words` words of memory: whole 64-byte blocks."""
    granule = transfer_words(1, word_bytes)
    return words // granule * granule


def _parts(chunk: Chunk) -> list[tuple[Memory, bytes]]:
    return [(memory, data) for memory, data in ((Memory.WEIGHT, chunk.weights), (Memory.PARAM, chunk.params)) if data]
