"""The program checker.

Testpoints: compiled programs pass; each rule of fields, values, addresses, END and order refuses a program that breaks
it, with the name and the index; every dropped wait is refused or implied by others, against a reachability oracle on
random waits; a wait on the future or on the own unit; another config.
"""

from dataclasses import replace

import numpy as np
import pytest

from hw.check import check_order, check_program
from hw.dependency import WAIT_FIELDS, footprints
from hw.isa import ADDEND_MASK, UNIT_OF, Descriptor, Drain, Memory, Opcode, Region, Unit
from hw.program import compile_network
from quant.approx import GELU_OFFSET_MIN
from tests.programs import array, case

SHAPE = (2, 8, 4)
CONFIG = array(SHAPE)
NETWORK = next(network for network, _, _ in (case(seed, SHAPE) for seed in range(20)) if network.selectors)
PROGRAM = compile_network(NETWORK, CONFIG, taps=True)


def first(opcode, mode=None):
    """Return the index of the first descriptor of an opcode and mode."""
    return next(
        index
        for index, descriptor in enumerate(PROGRAM.descriptors)
        if descriptor.opcode == opcode and mode in (None, descriptor.mode)
    )


def changed(position, **values):
    """Return the program with fields of one descriptor changed."""
    descriptors = list(PROGRAM.descriptors)
    descriptors[position] = replace(descriptors[position], **values)
    return replace(PROGRAM, descriptors=tuple(descriptors))


def test_compiled_program_passes():
    check_program(PROGRAM, CONFIG)


@pytest.mark.parametrize(
    ("opcode", "values", "message"),
    [
        (Opcode.GEMM, {"opcode": 0}, "opcode of descriptor {} must be an Opcode, not 0"),
        (Opcode.GEMM, {"mode": 7}, "mode of descriptor {} must be a Drain, not 7"),
        (Opcode.GEMM, {"row_base": 1}, r"row_base of descriptor {} \(GEMM\) must be 0, as it is not used"),
        (Opcode.KEYS, {"mult": 1}, "mult of descriptor {}"),
        (Opcode.BEGIN, {"rows": 0}, r"rows of descriptor {} \(BEGIN\) must be in 1..64, not 0"),
        (Opcode.BEGIN, {"rows": 65}, "rows of descriptor {}"),
        (Opcode.LOAD, {"memory": Memory.TOKEN}, "memory of descriptor {}"),
        (Opcode.LOAD, {"region": Region.OUTPUT}, "region of descriptor {}"),
        (Opcode.LOAD, {"offset": 8}, "offset of descriptor {} .* multiple of 64"),
        (Opcode.LOAD, {"length": 0}, "length of descriptor {}"),
        (Opcode.LOAD, {"length": 96}, "length of descriptor {}"),
        (Opcode.LOAD, {"offset": 1 << 30}, "offset of descriptor {} .* end of its region"),
        (Opcode.STORE, {"memory": Memory.WEIGHT}, "memory of descriptor {}"),
        (Opcode.STORE, {"region": Region.WEIGHTS}, "region of descriptor {}"),
        (Opcode.LAYER_NORM, {"dim": 3}, "dim of descriptor {}"),
        (Opcode.LAYER_NORM, {"addend": 0}, "addend of descriptor {}"),
        (Opcode.LAYER_NORM, {"shift": 32}, "shift of descriptor {}"),
        (Opcode.SOFTMAX, {"shift": 32}, "shift of descriptor {}"),
        (Opcode.SOFTMAX, {"mult": 32767}, "mult of descriptor {}"),
        (Opcode.SELECT, {"heads": 0}, "heads of descriptor {}"),
        (Opcode.COMPACT, {"index": 32}, "index of descriptor {}"),
        (Opcode.COMPACT, {"picture": 1}, "must come after a SELECT of picture 1"),
        (Opcode.KEYS, {"picture": 1}, "picture of descriptor {}"),
        (Opcode.KEYS, {"src_words": 0}, "src_words of descriptor {}"),
        (Opcode.KEYS, {"src_base": 8191}, "descriptor {} .*stay inside the 8192 words of ACT, not reach word"),
        (Opcode.KEYS, {"dst_base": 4096}, "descriptor {} .*4096 words of WEIGHT"),
        (Opcode.GEMM, {"aux_base": 4096}, "descriptor {} .*4096 words of WEIGHT"),
        (Opcode.GEMM, {"param_base": 512}, "descriptor {} .*512 words of PARAM"),
        (Opcode.SOFTMAX, {"row_base": 64}, "descriptor {} .*64 words of ROW_SCALE"),
    ],
)
def test_broken_rule_is_refused(opcode, values, message):
    index = first(opcode)
    with pytest.raises(ValueError, match=message.format(index)):
        check_program(changed(index, **values), CONFIG)


def test_shift_of_a_mode_is_checked():
    index = first(Opcode.GEMM, Drain.SCORE)
    with pytest.raises(ValueError, match=f"shift of descriptor {index} .*at most 47, not 48"):
        check_program(changed(index, shift=48), CONFIG)


@pytest.mark.parametrize("offset", [1, GELU_OFFSET_MIN - 1])
def test_offset_of_gelu_is_checked(offset):
    index = first(Opcode.GEMM, Drain.GELU)
    with pytest.raises(ValueError, match=f"addend of descriptor {index} .*in {GELU_OFFSET_MIN}..0, as i32, not"):
        check_program(changed(index, addend=offset & ADDEND_MASK), CONFIG)


def test_gemm_must_not_overwrite_its_operand():
    index = first(Opcode.GEMM, Drain.INT8)
    with pytest.raises(ValueError, match="must not write words of ACT that it reads"):
        check_program(changed(index, dst_base=PROGRAM.descriptors[index].src_base), CONFIG)


def test_end_is_last_and_only_there():
    with pytest.raises(ValueError, match="END must be the last descriptor"):
        check_program(replace(PROGRAM, descriptors=PROGRAM.descriptors[:-1]), CONFIG)
    with pytest.raises(ValueError, match="END must be the last descriptor"):
        check_program(changed(3, opcode=Opcode.END), CONFIG)


def test_work_before_begin_is_refused():
    with pytest.raises(ValueError, match="must come after a BEGIN"):
        check_program(changed(first(Opcode.BEGIN), opcode=Opcode.UNIFORM, rows=0), CONFIG)


def test_another_config_is_refused():
    with pytest.raises(ValueError, match="config must be the one that the program was compiled for"):
        check_program(PROGRAM, array((2, 8, 4), param_words=513))


@pytest.mark.parametrize("unit", [unit for unit in Unit if unit is not Unit.STORE])
def test_missing_waits_are_refused(unit):
    field = WAIT_FIELDS[unit]
    descriptors = tuple(replace(descriptor, **{field: 0}) for descriptor in PROGRAM.descriptors)
    with pytest.raises(ValueError, match=r"descriptor \d+ must wait for descriptor"):
        check_program(replace(PROGRAM, descriptors=descriptors), CONFIG)


def test_waits_on_the_future_are_refused():
    index = first(Opcode.GEMM)
    own = PROGRAM.descriptors[:index]
    loads = sum(descriptor.opcode == Opcode.LOAD for descriptor in own)
    with pytest.raises(ValueError, match=f"wait_load of descriptor {index} must be in 0..{loads}"):
        check_program(changed(index, wait_load=loads + 1), CONFIG)
    index = first(Opcode.GEMM, Drain.SCORE)
    gemms = sum(descriptor.opcode == Opcode.GEMM for descriptor in PROGRAM.descriptors[:index])
    with pytest.raises(ValueError, match=rf"wait_gemm of descriptor \d+ must be in 0..{gemms}, "):
        check_program(changed(index, wait_gemm=gemms + 1), CONFIG)
    with pytest.raises(ValueError, match=r"wait_vector of descriptor \d+ must be in 0..0, "):
        check_program(changed(first(Opcode.BEGIN), wait_vector=1), CONFIG)


def is_ordered(descriptors, accesses):
    """Tell by reachability over all edges, word by word, whether every conflict is ordered.

    Nodes 2 * i and 2 * i + 1 are the start and the completion of descriptor i.
    """
    count = len(descriptors)
    reach = np.zeros((2 * count, 2 * count), bool)
    units = [UNIT_OF[Opcode(descriptor.opcode)] for descriptor in descriptors]

    def add(earlier, later):
        reach[:, later] |= reach[:, earlier]
        reach[earlier, later] = True

    for index, descriptor in enumerate(descriptors):
        start, end = 2 * index, 2 * index + 1
        own = [earlier for earlier in range(index) if units[earlier] is units[index]]
        for other, wait in zip(Unit, descriptor.waits, strict=True):
            for earlier in [earlier for earlier in range(index) if units[earlier] is other][:wait]:
                add(2 * earlier + 1, start)
        for earlier in own:
            add(2 * earlier + (units[index] is not Unit.GEMM), start)
        add(start, end)
        for earlier in own:
            add(2 * earlier + 1, end)
    words = [
        [{(span.space, int(word)) for span in spans for word in span.addresses()} for spans in (a.reads, a.writes)]
        for a in accesses
    ]
    for late in range(count):
        for early in range(late):
            (reads, writes), (late_reads, late_writes) = words[early], words[late]
            is_conflict = writes & late_reads or (units[early] is not units[late] and late_writes & (reads | writes))
            if is_conflict and not reach[2 * early + 1, 2 * late]:
                return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_order_agrees_with_reachability(seed):
    rng = np.random.default_rng(seed)
    outcomes, begin = set(), PROGRAM.descriptors[first(Opcode.BEGIN)]
    for _ in range(60):
        start = int(rng.integers(0, len(PROGRAM.descriptors) - 20))
        # Twelve descriptors from anywhere, some of the waits between them dropped or weakened.
        window = [replace(d, **dict.fromkeys(WAIT_FIELDS, 0)) for d in PROGRAM.descriptors[start : start + 12]]
        accesses = list(footprints([begin, *window], CONFIG))[1:]
        issued, descriptors = dict.fromkeys(Unit, 0), []
        for descriptor in window:
            unit = UNIT_OF[Opcode(descriptor.opcode)]
            limits = [0 if other is unit and unit is not Unit.GEMM else issued[other] for other in Unit]
            drawn = [int(rng.choice([0, limit, limit, limit, rng.integers(limit + 1)])) for limit in limits]
            descriptors.append(replace(descriptor, **dict(zip(WAIT_FIELDS, drawn, strict=True))))
            issued[unit] += 1
        try:
            check_order([*descriptors, Descriptor(Opcode.END)], accesses)
            is_accepted = True
        except ValueError:
            is_accepted = False
        assert is_accepted == is_ordered(descriptors, accesses)
        outcomes.add(is_accepted)
    assert outcomes == {False, True}
