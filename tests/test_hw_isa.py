"""Descriptor format: packing, limits, and the tables that RTL and compiler share.

Testpoints: pack and unpack are inverse for random descriptors; the position of every field in the 64 bytes, little
endian; field limits with the text of the error; unpack rejects a wrong size and bits outside the fields; waits follow
the order of the units; every opcode but END has a unit; enum values that are on the wire; the RTL's layout is the
same.
"""

import random

import pytest
from amaranth.hdl import Const

from hw.isa import DESCRIPTOR_BYTES, FIELD_BITS, UNIT_OF, Descriptor, Drain, ErrorCode, Memory, Opcode, Region, Unit
from hw.rtl.ports import descriptor_layout


def random_descriptor(seed):
    generator = random.Random(seed)
    return Descriptor(**{name: generator.getrandbits(bits) for name, bits in FIELD_BITS.items()})


@pytest.mark.parametrize("seed", range(5))
def test_pack_and_unpack_are_inverse(seed):
    descriptor = random_descriptor(seed)
    data = descriptor.pack()
    assert len(data) == DESCRIPTOR_BYTES == 64
    assert Descriptor.unpack(data) == descriptor


@pytest.mark.parametrize("seed", range(3))
def test_rtl_layout_is_the_same(seed):
    descriptor = random_descriptor(seed)
    view = descriptor_layout.from_bits(int.from_bytes(descriptor.pack(), "little"))
    for name in FIELD_BITS:
        assert Const.cast(view[name]).value == getattr(descriptor, name)


def test_fields_follow_one_another_from_bit_0():
    position = 0
    for name, bits in FIELD_BITS.items():
        data = Descriptor(**({"opcode": 0} | {name: (1 << bits) - 1})).pack()
        assert int.from_bytes(data, "little") == ((1 << bits) - 1) << position
        position += bits


def test_byte_positions_on_the_wire():
    data = Descriptor(Opcode.GEMM, mode=Drain.WIDE, wait_load=0x1234, src_base=0xABCD).pack()
    assert data[:4] == bytes([6, 6, 0x34, 0x12])
    assert data[12:14] == bytes([0xCD, 0xAB])


@pytest.mark.parametrize("name, bits", FIELD_BITS.items())
def test_field_limits(name, bits):
    fields = {"opcode": 0}
    assert getattr(Descriptor(**fields | {name: (1 << bits) - 1}), name) == (1 << bits) - 1
    for value in (-1, 1 << bits):
        with pytest.raises(ValueError, match=rf"{name} must be in 0\.\.{(1 << bits) - 1}, not {value}"):
            Descriptor(**fields | {name: value})


@pytest.mark.parametrize("size", [0, 63, 65])
def test_unpack_rejects_a_wrong_size(size):
    with pytest.raises(ValueError, match=f"descriptor must have 64 bytes, not {size}"):
        Descriptor.unpack(bytes(size))


def test_fields_fill_the_descriptor():
    assert sum(FIELD_BITS.values()) == 512
    assert Descriptor.unpack((1 << 511).to_bytes(64, "little")) == Descriptor(0, picture=128)


@pytest.mark.parametrize(
    "first_tile, rows, covered",
    [(0, 0, 13), (0, 5, 5), (0, 14, 13), (2, 0, 5), (2, 4, 4), (2, 6, 5), (3, 0, 1), (3, 4, 1), (4, 0, 0), (4, 9, 0)],
)
def test_covered_rows_end_at_the_live_tokens(first_tile, rows, covered):
    assert Descriptor(Opcode.GEMM, first_tile=first_tile, rows=rows).covered_rows(13, 4) == covered


def test_waits_follow_the_order_of_the_units():
    waits = {f"wait_{unit.name.lower()}": 10 + unit for unit in Unit}
    assert Descriptor(Opcode.END, **waits).waits == tuple(10 + unit for unit in Unit)


def test_every_opcode_but_end_has_a_unit():
    assert set(UNIT_OF) == set(Opcode) - {Opcode.END}
    assert set(UNIT_OF.values()) == set(Unit)


def test_values_on_the_wire():
    assert [opcode.value for opcode in Opcode] == list(range(1, 13))
    assert [mode.value for mode in Drain] == list(range(7))
    assert [unit.name for unit in Unit] == ["LOAD", "OPERAND", "GEMM", "VECTOR", "STORE"]
    assert [memory.name for memory in Memory] == ["ACT", "WIDE", "WEIGHT", "PARAM", "TOKEN"]
    assert [region.name for region in Region] == ["WEIGHTS", "INPUT", "OUTPUT"]
    assert [code.value for code in ErrorCode] == list(range(7))
