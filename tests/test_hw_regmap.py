"""Register map: one table that driver and RTL share.

Testpoints: offsets are consecutive words from 0 and fit the decoded range; the first registers are where every host
finds them; names are unique and complete per region, unit and token register; access kinds; bits of CONTROL and
STATUS; the ID spells its name.
"""

from hw.isa import Region, Unit
from hw.regmap import (
    ADDRESS_BITS,
    ID_VALUE,
    NUM_TOKEN_REGISTERS,
    REGISTERS,
    STALLS,
    Access,
    Control,
    Status,
    stall_register,
)

WRITABLE = {
    "CONTROL",
    "PROGRAM_LO",
    "PROGRAM_HI",
    "PROGRAM_LENGTH",
    "WATCHDOG",
    *(f"{region.name}_{part}" for region in Region for part in ("LO", "HI", "SIZE")),
}


def test_offsets_are_consecutive_words():
    assert [register.offset for register in REGISTERS.values()] == list(range(0, 4 * len(REGISTERS), 4))
    assert 4 * len(REGISTERS) <= 1 << ADDRESS_BITS


def test_first_registers():
    names = ["ID", "CONFIG_HASH", "CONTROL", "STATUS", "ERROR", "ERROR_INDEX", "PROGRAM_LO"]
    assert list(REGISTERS)[: len(names)] == names


def test_names_are_complete():
    assert all(name == register.name for name, register in REGISTERS.items())
    assert {name for name in REGISTERS if name.startswith("BUSY_")} == {f"BUSY_{unit.name}" for unit in Unit}
    assert {name for name in REGISTERS if name.startswith("WAIT_")} == {f"WAIT_{unit.name}" for unit in Unit}
    stalls = [stall_register(unit, stall) for unit, stalls in STALLS.items() for stall in stalls]
    assert [name for name in REGISTERS if name.startswith("STALL_")] == stalls and list(STALLS) == list(Unit)
    assert sum(name.startswith("TOKENS_") for name in REGISTERS) == NUM_TOKEN_REGISTERS
    assert "CYCLES" in REGISTERS
    assert all(register.text for register in REGISTERS.values())


def test_access_kinds():
    assert {name for name, register in REGISTERS.items() if register.access is Access.READ_WRITE} == WRITABLE
    assert {register.access for register in REGISTERS.values()} == set(Access)


def test_bits():
    assert [flag.value for flag in Control] == [1, 2, 4]
    assert [flag.value for flag in Status] == [1, 2, 4, 8]
    assert [flag.name for flag in Status] == ["BUSY", "DONE", "ERROR", "DRAINING"]


def test_id_spells_its_name():
    assert ID_VALUE.to_bytes(4, "big") == b"HVT1"
