"""Waits and footprints.

Testpoints: read after write, write after read, write after write; none for two reads, disjoint words or the own unit;
the last of several; strided rows that interleave; the live count and the decision as memory; fixed row counts do not
wait for them; END waits for nothing; too many descriptors; footprints cover every word that the machine touches and
every word that it changes, on random programs.
"""

import numpy as np
import pytest

from hw import dependency
from hw.dependency import Space, Span, add_waits, footprints
from hw.isa import Descriptor, Drain, Memory, Opcode, Region
from hw.program import compile_network
from sim.machine import Machine
from tests.programs import SHAPES, array, case

CONFIG = array((2, 8, 4), pictures=2)


def load(memory, base, words):
    """LOAD of so many words."""
    size = {Memory.ACT: 8, Memory.WIDE: 16, Memory.WEIGHT: 32, Memory.PARAM: 32}[memory]
    return Descriptor(Opcode.LOAD, memory=memory, dst_base=base, length=words * size)


def store(base, words):
    """STORE of so many ACT words."""
    return Descriptor(Opcode.STORE, memory=Memory.ACT, region=Region.OUTPUT, src_base=base, length=8 * words)


def gemm(**fields):
    """GEMM of two rows: ACT 0..1 and WEIGHT 0..1 -> ACT 100, eight columns, PARAM 0..1."""
    sizes = {"src_base": 0, "src_words": 2, "dst_base": 100, "cols": 8, "rows": 2}
    return Descriptor(Opcode.GEMM, **(sizes | fields))


BEGIN = Descriptor(Opcode.BEGIN, rows=6)
END = Descriptor(Opcode.END)


def waits(*descriptors):
    """Return the waits of the last of some descriptors after a BEGIN as (load, operand, gemm, vector, store)."""
    return add_waits((BEGIN, *descriptors), CONFIG)[-1].waits


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (load(Memory.ACT, 0, 8), gemm(), (1, 0, 0, 1, 0)),  # read after write
        (load(Memory.WEIGHT, 0, 2), gemm(), (1, 0, 0, 1, 0)),
        (load(Memory.PARAM, 0, 2), gemm(), (1, 0, 0, 1, 0)),
        (gemm(), load(Memory.ACT, 0, 8), (0, 0, 1, 0, 0)),  # write after read
        (gemm(), load(Memory.WEIGHT, 1, 2), (0, 0, 1, 0, 0)),
        (gemm(), load(Memory.ACT, 96, 8), (0, 0, 1, 0, 0)),  # write after write
        (gemm(mode=Drain.RESIDUAL), load(Memory.WIDE, 100, 4), (0, 0, 1, 0, 0)),
        (gemm(), store(0, 8), (0, 0, 0, 0, 0)),  # two reads
        (gemm(), load(Memory.ACT, 2, 8), (0, 0, 0, 0, 0)),  # other words
        (gemm(), load(Memory.WEIGHT, 2, 2), (0, 0, 0, 0, 0)),
        (gemm(mode=Drain.WIDE), load(Memory.ACT, 96, 8), (0, 0, 0, 0, 0)),  # another memory
        (gemm(), gemm(dst_base=0, src_base=100), (0, 0, 1, 1, 0)),  # GEMM reads before the one before has written
        (gemm(mode=Drain.WIDE), gemm(mode=Drain.RESIDUAL), (0, 0, 1, 1, 0)),
        (gemm(), gemm(src_base=8), (0, 0, 0, 1, 0)),  # but writes in order
        (BEGIN, Descriptor(Opcode.LAYER_NORM, src_words=1, rows=2), (0, 0, 0, 0, 0)),  # the own unit
    ],
)
def test_conflicts(first, second, expected):
    assert waits(first, second) == expected


def test_the_last_of_several_is_waited_for():
    assert waits(load(Memory.ACT, 0, 8), load(Memory.WEIGHT, 0, 2), load(Memory.ACT, 200, 8), gemm()) == (2, 0, 0, 1, 0)


def test_interleaved_rows_do_not_conflict():
    rows = {"rows": 6, "dst_stride": 4, "cols": 8}
    first = gemm(**rows)  # words 100, 101, 104, 105, 108, 109
    between = Descriptor(Opcode.LAYER_NORM, src_words=2, dst_base=102, dst_stride=4, rows=6, dim=8)
    assert waits(first, between) == (0, 0, 0, 0, 0)
    touching = Descriptor(Opcode.LAYER_NORM, src_words=2, dst_base=103, dst_stride=4, rows=6, dim=8)
    assert waits(first, touching) == (0, 0, 1, 0, 0)


def test_live_count_is_memory():
    compact = Descriptor(Opcode.COMPACT, src_base=500, src_words=1, src_stride=1)
    assert waits(gemm(rows=0)) == (0, 0, 0, 1, 0)
    assert waits(gemm(cols=0)) == (0, 0, 0, 1, 0)
    assert waits(gemm(src_words=0)) == (0, 0, 0, 1, 0)
    assert waits(gemm()) == (0, 0, 0, 1, 0)
    assert waits(gemm(picture=1)) == (0, 0, 0, 0, 0)
    assert waits(Descriptor(Opcode.BEGIN, rows=4, picture=1), gemm()) == (0, 0, 0, 1, 0)
    assert waits(Descriptor(Opcode.BEGIN, rows=4, picture=1), gemm(picture=1)) == (0, 0, 0, 2, 0)
    assert waits(gemm(rows=0), compact) == (0, 0, 1, 0, 0)
    assert waits(compact, Descriptor(Opcode.KEYS, src_words=1)) == (0, 0, 0, 2, 0)
    tokens = Descriptor(Opcode.STORE, memory=Memory.TOKEN, region=Region.OUTPUT, length=64)
    assert waits(tokens, compact) == (0, 0, 0, 0, 1)


def test_row_scales_are_memory():
    softmax = Descriptor(Opcode.SOFTMAX, dst_base=300, dst_stride=2, row_base=3)
    product = gemm(mode=Drain.ROW_SCALE, rows=6, row_base=1)
    assert waits(softmax, product) == (0, 0, 0, 2, 0)
    assert waits(softmax, gemm(mode=Drain.ROW_SCALE, rows=4, row_base=1)) == (0, 0, 0, 1, 0)


def test_uniform_writes_the_row_scales_of_every_live_row():
    uniform = Descriptor(Opcode.UNIFORM, dst_base=300, row_base=2)
    assert waits(gemm(mode=Drain.ROW_SCALE, rows=4, row_base=0), uniform) == (0, 0, 0, 0, 0)
    assert waits(gemm(mode=Drain.ROW_SCALE, rows=4, row_base=1), uniform) == (0, 0, 1, 0, 0)
    assert waits(uniform, gemm(mode=Drain.ROW_SCALE, rows=2, row_base=4)) == (0, 0, 0, 2, 0)
    assert waits(uniform, gemm(mode=Drain.ROW_SCALE, rows=2, row_base=5)) == (0, 0, 0, 1, 0)


def test_rows_end_at_the_live_tokens():
    assert waits(gemm(first_tile=2, rows=4), load(Memory.ACT, 0, 8)) == (0, 0, 1, 0, 0)
    assert waits(gemm(first_tile=2, src_stride=8, rows=4), load(Memory.ACT, 2, 8)) == (0, 0, 0, 0, 0)
    assert waits(gemm(first_tile=3, rows=4), load(Memory.ACT, 0, 8)) == (0, 0, 0, 0, 0)


def test_worst_case_is_that_of_the_last_begin():
    product = gemm(rows=0, src_stride=2)
    assert waits(product, load(Memory.ACT, 5, 8)) == (0, 0, 1, 0, 0)
    assert waits(Descriptor(Opcode.BEGIN, rows=4), product, load(Memory.ACT, 4, 8)) == (0, 0, 0, 0, 0)


def test_end_waits_for_nothing():
    assert waits(load(Memory.ACT, 0, 8), gemm(), END) == (0, 0, 0, 0, 0)


def test_too_many_descriptors(monkeypatch):
    monkeypatch.setattr(dependency, "MAX_UNIT_DESCRIPTORS", 2)
    add_waits([BEGIN, gemm(), BEGIN, gemm()], CONFIG)
    with pytest.raises(ValueError, match="at most 2 descriptors of unit GEMM"):
        add_waits([BEGIN, *[gemm()] * 3], CONFIG)


def test_span_addresses():
    span = Span(Space.ACT, 10, words=2, count=3, stride=5)
    assert span.addresses().tolist() == [10, 11, 15, 16, 20, 21]
    assert span.end == 22
    assert Span(Space.ACT, 10, words=0).end == 0


class Recorder(Machine):
    """A machine that remembers the words of each descriptor."""

    def __init__(self, *args):
        super().__init__(*args)
        self.touched = {space: set() for space in Space}

    def addresses(self, space, *span):
        """Record the words."""
        words = super().addresses(space, *span)
        self.touched[space] |= set(words.reshape(-1).tolist())
        return words


@pytest.mark.parametrize("seed", range(6))
def test_footprints_cover_what_the_machine_does(seed):
    shape = SHAPES[seed % len(SHAPES)]
    network, _, patches_i8 = case(seed + 40, shape, max_tokens=20)
    config = array(shape, act_words=2048, wide_words=1024, weight_words=2048)
    program = compile_network(network, config, taps=True)
    machine = Recorder(config, np.random.default_rng(seed))
    covered = iter(footprints(program.descriptors, config))

    def execute(descriptor, run=machine.execute):
        machine.touched = {space: set() for space in Space}
        before = {memory: words.copy() for memory, words in machine.raw.items()}
        run(descriptor)
        access = next(covered)
        for space in Space:
            reads, writes = (
                {int(word) for span in spans if span.space is space for word in span.addresses()}
                for spans in (access.reads, access.writes)
            )
            assert machine.touched[space] <= reads | writes
            if space in list(Memory):
                changed = (machine.raw[Memory(space)] != before[Memory(space)]).any(axis=1)
                assert set(np.flatnonzero(changed).tolist()) <= writes

    machine.execute = execute
    machine.run_pictures(program, patches_i8)
