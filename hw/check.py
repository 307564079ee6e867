"""The program checker: fields, addresses and order of a finished program, found without the compiler's bookkeeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from hw.config import AccelConfig
from hw.dependency import Footprint, Space, Span, footprints, memory_word_bytes, space_words
from hw.isa import UNIT_OF, WITHOUT_PICTURE, Descriptor, Drain, Memory, Opcode, Region, Unit
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.tiling import TRANSFER_BYTES
from quant.approx import GELU_OFFSET_MIN
from quant.bounds import MAX_EMBED_DIM
from quant.fixed import SHIFT_MAX

if TYPE_CHECKING:
    from hw.program import Program

ROW_SCALE_SHIFT_MAX = 31
"""Largest shift of row_scale and of LayerNorm's affine step (quant.approx)."""

WordSets = dict[Space, int]
"""Words of each space as the set bits of an integer."""

_ALWAYS = {"opcode", *(f"wait_{unit.name.lower()}" for unit in Unit)}
_SOURCE = {"src_base", "src_stride", "src_words"}
_TARGET = {"dst_base", "dst_stride"}
_TRANSFER = {"memory", "region", "offset", "length"}

FIELDS: dict[Opcode, set[str]] = {
    Opcode.END: set(),
    Opcode.LOAD: _TRANSFER | {"dst_base"},
    Opcode.STORE: _TRANSFER | {"src_base"},
    Opcode.KEYS: _SOURCE | _TARGET,
    Opcode.VALUES: _SOURCE | _TARGET,
    Opcode.GEMM: _SOURCE | _TARGET | {"mode", "aux_base", "aux_stride", "rows", "cols", "first_tile"},
    Opcode.BEGIN: {"rows"},
    Opcode.LAYER_NORM: _SOURCE | _TARGET | {"param_base", "dim", "shift", "addend", "rows", "first_tile"},
    Opcode.SOFTMAX: {"src_base", "src_stride", "row_base", "mult", "shift"} | _TARGET,
    Opcode.UNIFORM: {"dst_base", "row_base", "mult", "shift"},
    Opcode.SELECT: {"src_base", "src_stride", "aux_base", "aux_stride", "heads", "threshold"},
    Opcode.COMPACT: _SOURCE | {"index"},
}
"""The fields that each opcode may use, besides the opcode and the waits."""

MODE_FIELDS: dict[Drain, set[str]] = {
    Drain.INT8: {"param_base"},
    Drain.GELU: {"param_base", "mult", "shift", "one", "curve", "addend"},
    Drain.SIGMOID: {"param_base"},
    Drain.ROW_SCALE: {"row_base"},
    Drain.SCORE: {"mult", "shift", "addend"},
    Drain.RESIDUAL: {"param_base"},
    Drain.WIDE: {"param_base"},
}
"""What each mode of GEMM uses in addition."""


def check_program(program: Program, config: AccelConfig) -> None:
    """Raise ValueError naming the first descriptor that breaks a rule of docs/architecture.md sections 4 and 5.

    config is that of the core that shall run the program.
    """
    if program.config != config:
        raise ValueError(
            f"config must be the one that the program was compiled for, {program.config!r}, not {config!r}"
        )
    descriptors = program.descriptors
    _check_end(descriptors)
    region_bytes = {
        Region.WEIGHTS: len(program.weights),
        Region.INPUT: program.input_bytes,
        Region.OUTPUT: program.output_bytes,
    }
    begun: set[int] = set()
    decided: int | None = None  # the picture of a SELECT that waits for its COMPACT
    for index, descriptor in enumerate(descriptors):
        _check_fields(index, descriptor)
        if descriptor.opcode == Opcode.SELECT:
            decided = descriptor.picture
        if descriptor.opcode == Opcode.COMPACT:
            if decided != descriptor.picture:
                raise ValueError(
                    f"descriptor {index} (COMPACT) must come after a SELECT of picture {descriptor.picture}"
                )
            decided = None
        if descriptor.opcode == Opcode.BEGIN:
            begun.add(descriptor.picture)
        _check_values(index, descriptor, config, region_bytes, descriptor.picture in begun)
    accesses = list(footprints(descriptors, config))
    for index, access in enumerate(accesses):
        _check_addresses(index, descriptors[index], access, config)
    check_order(descriptors, accesses)


def _check_end(descriptors: Sequence[Descriptor]) -> None:
    ends = [index for index, descriptor in enumerate(descriptors) if descriptor.opcode == Opcode.END]
    if ends != [len(descriptors) - 1]:
        raise ValueError(f"END must be the last descriptor, {len(descriptors) - 1}, and no other, not at {ends!r}")


def _check_fields(index: int, descriptor: Descriptor) -> None:
    if descriptor.opcode not in list(Opcode):
        raise ValueError(f"opcode of descriptor {index} must be an Opcode, not {descriptor.opcode!r}")
    opcode = Opcode(descriptor.opcode)
    allowed = _ALWAYS | FIELDS[opcode]
    if opcode not in WITHOUT_PICTURE:
        allowed.add("picture")
    if opcode is Opcode.GEMM:
        if descriptor.mode not in list(Drain):
            raise ValueError(f"mode of descriptor {index} must be a Drain, not {descriptor.mode!r}")
        allowed |= MODE_FIELDS[Drain(descriptor.mode)]
    for field in fields(Descriptor):
        if field.name not in allowed and getattr(descriptor, field.name):
            raise ValueError(f"{field.name} of descriptor {index} ({opcode.name}) must be 0, as it is not used")


def _check_values(
    index: int, descriptor: Descriptor, config: AccelConfig, region_bytes: dict[Region, int], has_begun: bool
) -> None:
    """Check the values that are no addresses: what each unit was proven for."""
    d, opcode = descriptor, Opcode(descriptor.opcode)

    def require(name: str, is_legal: bool, what: str) -> None:
        if not is_legal:
            raise ValueError(f"{name} of descriptor {index} ({opcode.name}) must be {what}, not {getattr(d, name)!r}")

    require("picture", d.picture < config.pictures, f"below {config.pictures}")
    if opcode in (Opcode.LOAD, Opcode.STORE):
        is_load = opcode is Opcode.LOAD
        memories = [Memory.ACT, Memory.WIDE, *([Memory.WEIGHT, Memory.PARAM] if is_load else [Memory.TOKEN])]
        regions = [Region.WEIGHTS, Region.INPUT] if is_load else [Region.OUTPUT]
        require("memory", d.memory in memories, f"one of {', '.join(memory.name for memory in memories)}")
        require("region", d.region in regions, f"one of {', '.join(region.name for region in regions)}")
        require("offset", d.offset % TRANSFER_BYTES == 0, f"a multiple of {TRANSFER_BYTES}")
        unit_bytes = max(TRANSFER_BYTES, memory_word_bytes(d.memory, config))
        require("length", d.length > 0 and d.length % unit_bytes == 0, f"a positive multiple of {unit_bytes}")
        size = region_bytes[Region(d.region)]
        require("offset", d.offset + d.length <= size, f"at most {size - d.length}, the end of its region")
    elif opcode is Opcode.BEGIN:
        require("rows", 1 <= d.rows <= config.max_tokens, f"in 1..{config.max_tokens}")
    elif opcode is not Opcode.END:
        if not has_begun:
            raise ValueError(f"descriptor {index} ({opcode.name}) must come after a BEGIN of picture {d.picture}")
        require("rows", d.rows <= config.max_tokens, f"at most {config.max_tokens}")
        if opcode in (Opcode.SOFTMAX, Opcode.UNIFORM, Opcode.LAYER_NORM):
            require("shift", d.shift <= ROW_SCALE_SHIFT_MAX, f"at most {ROW_SCALE_SHIFT_MAX}")
        else:
            require("shift", d.shift <= SHIFT_MAX, f"at most {SHIFT_MAX}")
        if opcode in (Opcode.SOFTMAX, Opcode.UNIFORM):
            require("mult", d.mult >= 1 << 15, "at least 2**15")
        if opcode in (Opcode.KEYS, Opcode.VALUES, Opcode.LAYER_NORM, Opcode.COMPACT):
            require("src_words", d.src_words > 0, "positive")
        if opcode is Opcode.LAYER_NORM:
            require("dim", d.dim == d.src_words * config.depth, f"src_words * {config.depth}")
            require("dim", d.dim <= MAX_EMBED_DIM, f"at most {MAX_EMBED_DIM}")
            require("addend", d.addend > 0, "positive")
        if opcode is Opcode.GEMM and d.mode == Drain.GELU:
            require("addend", GELU_OFFSET_MIN <= d.addend_i32 <= 0, f"in {GELU_OFFSET_MIN}..0, as i32")
        if opcode is Opcode.SELECT:
            require("heads", d.heads > 0, "positive")
        if opcode is Opcode.COMPACT:
            require("index", d.index < NUM_TOKEN_REGISTERS, f"below {NUM_TOKEN_REGISTERS}")


def _check_addresses(index: int, descriptor: Descriptor, access: Footprint, config: AccelConfig) -> None:
    sizes, name = space_words(config), Opcode(descriptor.opcode).name
    for span in access.reads + access.writes:
        if span.end > sizes[span.space]:
            raise ValueError(
                f"descriptor {index} ({name}) must stay inside the {sizes[span.space]} words of {span.space.name}, "
                f"not reach word {span.end - 1}"
            )
    # WIDE is updated in place, word by word; a GEMM or an operand load reads its words more than once.
    read, written = _word_sets(access.reads), _word_sets(access.writes)
    for space in (Space.ACT, Space.WEIGHT):
        if read[space] & written[space]:
            raise ValueError(f"descriptor {index} ({name}) must not write words of {space.name} that it reads")


def _word_sets(spans: Sequence[Span]) -> WordSets:
    sets = dict.fromkeys(Space, 0)
    for span in spans:
        run = (1 << span.words) - 1
        for i in range(span.count):
            sets[span.space] |= run << (span.base + i * span.stride)
    return sets


def check_order(descriptors: Sequence[Descriptor], accesses: Sequence[Footprint]) -> None:
    """Prove that the waits order every two descriptors of different units of which one writes what the other touches.

    The happens-before relation is the transitive closure of each unit's own order and of the waits, as vector clocks.
    GEMM starts a descriptor before the one before is complete, so there a wait must also order a read after a write.
    Raises ValueError for a wait that nothing before it can satisfy, or for a pair that is not ordered.
    """
    clocks: list[list[int]] = []  # of each descriptor: how many of each unit are complete when it is, itself included
    starts: list[list[int]] = []  # and when it starts
    of_unit: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    words = [(_word_sets(access.reads), _word_sets(access.writes)) for access in accesses]
    for index, descriptor in enumerate(descriptors[:-1]):  # END waits for every unit by itself
        unit = UNIT_OF[Opcode(descriptor.opcode)]
        is_overlapping = unit is Unit.GEMM
        own = of_unit[unit][-1:]
        known = [(starts if is_overlapping else clocks)[earlier] for earlier in own]
        for other, wait in zip(Unit, descriptor.waits, strict=True):
            limit = 0 if other is unit and not is_overlapping else len(of_unit[other])
            if wait > limit:
                raise ValueError(
                    f"wait_{other.name.lower()} of descriptor {index} must be in 0..{limit}, what precedes it in the "
                    f"program, not {wait}"
                )
            known += [clocks[earlier] for earlier in of_unit[other][wait - 1 : wait]]
        start = [max((clock[other] for clock in known), default=0) for other in Unit]
        for other in Unit:
            for earlier in of_unit[other][start[other] :]:
                space = _conflict(words[earlier], words[index], is_same_unit=other is unit)
                if space is not None:
                    raise ValueError(
                        f"descriptor {index} must wait for descriptor {earlier}: one writes what the other touches in "
                        f"{space.name}"
                    )
        starts.append(start)
        clocks.append([max([start[other], *(clocks[earlier][other] for earlier in own)]) for other in Unit])
        of_unit[unit].append(index)
        clocks[-1][unit] = len(of_unit[unit])


def _conflict(first: tuple[WordSets, WordSets], second: tuple[WordSets, WordSets], is_same_unit: bool) -> Space | None:
    """Return a space in which one (reads, writes) pair writes a word that the other reads or writes.

    Of two descriptors of a unit only a read of what the first writes is a conflict: their writes are in order.
    """
    for space in Space:
        reads, writes = first[0][space], first[1][space]
        other_reads, other_writes = second[0][space], second[1][space]
        if writes & other_reads or (not is_same_unit and other_writes & (reads | writes)):
            return space
    return None
