"""The instruction-set machine, and with it the compiler, against the golden model.

Testpoints: every tap of random networks on arrays of six shapes, memories full of garbage, in program order and in
random orders that the waits allow; layers cut by small weight memories; nothing pruned, everything pruned, ties, an
incoming package, all of it thrice; two pictures on one machine; two to five pictures in one run, whose weights are read
once. By hand: GEMM with fixed rows and columns, columns
beyond are not written; the clip of operands; UNIFORM. Errors: opcode, mode, address of every memory, region, alignment,
missing END, a wait that never comes, a program of a wrong size; a run after an error.
"""

from dataclasses import replace

import numpy as np
import pytest

from hw.isa import Descriptor, Drain, ErrorCode, Memory, Opcode, Region
from hw.program import compile_network
from quant.approx import row_scale
from quant.config import NetworkConfig
from quant.fixed import requantize
from quant.reference import patchify, run
from quant.synthetic import random_network, random_picture
from sim.machine import Machine
from tests.programs import SHAPES, array, case


def check_picture(machine, program, golden, patches_i8, shuffle=None):
    """Run one picture and compare everything that the program stores with the golden model."""
    check_pictures(machine, program, [golden], [patches_i8], shuffle)


def check_pictures(machine, program, goldens, patches_i8, shuffle=None):
    """As check_picture, for all pictures of a program."""
    result, output = machine.run_pictures(program, *patches_i8, shuffle=shuffle)
    assert result.error is ErrorCode.NONE and result.error_index == 0
    assert result.executed == len(program.descriptors)
    for picture, golden in enumerate(goldens):
        check_results(program, golden, output, result.token_counts, picture)


def check_results(program, golden, output, counts, picture):
    """Compare what a run stored of one picture."""
    token_counts = program.token_counts(counts, picture)
    assert list(token_counts) == golden.num_tokens
    taps = [tap for tap in program.taps if tap.picture == picture]
    for tap in taps:
        found = program.read_tap(tap, output, token_counts)
        assert found.dtype == golden.taps[tap.name].dtype, tap.name
        assert np.array_equal(found, golden.taps[tap.name]), tap.name
    left = set(golden.taps) - {tap.name for tap in taps}
    assert left == {f"selectors.{i}.keep_score" for i in range(len(golden.tokens))} or not taps
    assert program.logits(output, picture).dtype == np.int16
    assert np.array_equal(program.logits(output, picture), golden.logits_i16)
    if golden.tokens:
        assert np.array_equal(program.tokens(output, len(golden.tokens[-1]), picture), golden.tokens[-1])
    else:
        num_tokens = program.network_config.num_tokens
        assert program.tokens(output, num_tokens, picture).tolist() == list(range(num_tokens))


@pytest.mark.parametrize("seed", range(24))
def test_every_tap_equals_the_golden_model(seed):
    shape = SHAPES[seed % len(SHAPES)]
    network, golden, patches_i8 = case(seed, shape)
    config = array(shape)
    program = compile_network(network, config, taps=True)
    rng = np.random.default_rng(seed)
    check_picture(Machine(config, rng), program, golden, patches_i8)
    check_picture(Machine(config), program, golden, patches_i8)


@pytest.mark.parametrize("seed", range(12))
def test_waits_alone_give_the_order(seed):
    shape = SHAPES[seed % len(SHAPES)]
    network, golden, patches_i8 = case(seed + 100, shape, max_tokens=20)
    config, rng = array(shape), np.random.default_rng(seed)
    for is_tapped in (False, True):
        program = compile_network(network, config, is_tapped)
        for _ in range(4):
            check_picture(Machine(config, rng), program, golden, patches_i8, shuffle=rng)


@pytest.mark.parametrize("seed", range(8))
def test_pictures_share_a_run(seed):
    """Pictures of different token counts: in program order with garbage in the memories, and in the order of waits."""
    shape, rng = SHAPES[seed % len(SHAPES)], np.random.default_rng(seed)
    pictures = 2 + seed % 4
    config = array(shape, act_words=16384, wide_words=16384, pictures=pictures)
    network, golden, patches_i8 = case(seed + 300, shape, max_tokens=20)
    others = [random_picture(rng, network.config) for _ in range(pictures - 1)]
    goldens = [golden, *(run(network, other) for other in others)]
    patches = [patches_i8, *(patchify(network, other)[1:] for other in others)]
    for is_tapped in (False, True):
        program = compile_network(network, config, is_tapped, pictures)
        check_pictures(Machine(config, rng), program, goldens, patches)
        check_pictures(Machine(config, rng), program, goldens, patches, shuffle=rng)
    loaded = sum(d.length for d in program.descriptors if d.opcode == Opcode.LOAD and d.memory == Memory.WEIGHT)
    alone = compile_network(network, config)
    assert loaded == sum(d.length for d in alone.descriptors if d.opcode == Opcode.LOAD and d.memory == Memory.WEIGHT)


@pytest.mark.parametrize("seed", range(6))
def test_shared_weights_stay_until_the_last_picture(seed):
    """The smallest weight memory that the pictures can share, so that later layers want the words of earlier ones."""
    shape, rng = SHAPES[seed % len(SHAPES)], np.random.default_rng(seed)
    network, golden, patches_i8 = case(seed + 300, shape, max_tokens=20)
    config = array(shape, act_words=16384, wide_words=16384, pictures=3)
    for words in range(16, 4096, 16):
        try:
            config = replace(config, weight_words=words)
            program = compile_network(network, config, True, 3)
            break
        except ValueError as error:
            assert "weight_words must" in str(error) or "column tile" in str(error)
    check_pictures(Machine(config, rng), program, [golden] * 3, [patches_i8] * 3)


@pytest.mark.parametrize("seed", range(6))
def test_small_memories_reuse_their_words(seed):
    shape = SHAPES[seed]
    network, golden, patches_i8 = case(seed + 200, shape, max_tokens=20)
    words = 16
    while True:  # the smallest weight memory that is accepted
        config = array(shape, weight_words=words, param_words=max(64, 256 // shape[2]))
        try:
            program = compile_network(network, config)
            break
        except ValueError:
            words += 16
    rng = np.random.default_rng(seed)
    for _ in range(3):
        check_picture(Machine(config, rng), program, golden, patches_i8, shuffle=rng)


SELECTING = NetworkConfig(12, 3, 1, 5, 24, 3, 2, 24, selectors=(0, 1, 2))


def with_thresholds(network, thresholds):
    """Return the network with other thresholds."""
    selectors = (replace(s, threshold_u16=t) for s, t in zip(network.selectors, thresholds, strict=True))
    return replace(network, selectors=tuple(selectors))


@pytest.mark.parametrize(
    ("thresholds", "counts"),
    [
        ((0, 0, 0), [17, 17, 17]),  # nothing pruned, no package
        ((65535, 0, 65535), [2, 2, 2]),  # everything pruned, then the package alone is merged again
        ((65535, 65535, 0), [2, 2, 2]),
        (("tie", 0, 65535), [None, None, 2]),
        (("tie", "tie", "tie"), [None, None, None]),
    ],
)
@pytest.mark.parametrize("shape", [(2, 8, 4), (8, 32, 8)])
def test_selection_corners(shape, thresholds, counts):
    rng = np.random.default_rng(sum(shape))
    network, picture_u8 = random_network(rng, SELECTING), random_picture(rng, SELECTING)
    picture_u8[0] = rng.integers(0, 256, picture_u8[0].shape)
    chosen = [0, 0, 0]
    for stage, threshold in enumerate(thresholds):
        if threshold == "tie":
            score = run(with_thresholds(network, chosen), picture_u8).taps[f"selectors.{stage}.keep_score"]
            threshold = int(np.sort(score[1:])[len(score) // 2 - 1])
        chosen[stage] = threshold
    network = with_thresholds(network, chosen)
    golden = run(network, picture_u8)
    assert [count for count, wanted in zip(golden.num_tokens, counts, strict=True) if wanted] == [
        c for c in counts if c
    ]
    config = array(shape)
    program = compile_network(network, config, taps=True)
    check_picture(Machine(config, rng), program, golden, patchify(network, picture_u8)[1:], shuffle=rng)


def test_pictures_do_not_leave_traces():
    rng = np.random.default_rng(9)
    network, config = random_network(rng, SELECTING), array((4, 8, 8))
    program = compile_network(network, config)
    machine = Machine(config)
    for _ in range(3):
        picture_u8 = random_picture(rng, SELECTING)
        check_picture(machine, program, run(network, picture_u8), patchify(network, picture_u8)[1:])


CONFIG = array((2, 8, 4))
END = Descriptor(Opcode.END)
BEGIN = Descriptor(Opcode.BEGIN, rows=5)


def image(*words):
    """Return a region that holds arrays, each padded to whole 64-byte blocks."""
    return bytearray(b"".join(word.tobytes().ljust(-(-word.nbytes // 64) * 64, b"\0") for word in words))


def run_by_hand(descriptors, weights, output_bytes=256):
    """Run descriptors; return the result and the OUTPUT region, which starts as 0xAA."""
    regions = {Region.WEIGHTS: weights, Region.INPUT: bytearray(), Region.OUTPUT: bytearray(b"\xaa" * output_bytes)}
    result = Machine(CONFIG).run(b"".join(d.pack() for d in descriptors), regions)
    return result, bytes(regions[Region.OUTPUT])


def test_gemm_by_hand():
    rng = np.random.default_rng(1)
    act_i8 = rng.integers(-128, 128, (8, 2, 4), dtype=np.int8)  # (word, lane, K)
    weight_i8 = rng.integers(-127, 128, (4, 8, 4), dtype=np.int8)  # (word, column, K)
    descriptors = [
        Descriptor(Opcode.LOAD, memory=Memory.ACT, length=64),
        Descriptor(Opcode.LOAD, memory=Memory.WEIGHT, offset=64, length=128),
        Descriptor(Opcode.LOAD, memory=Memory.WIDE, dst_base=10, offset=192, length=128),
        Descriptor(Opcode.BEGIN, rows=3),
        # Three rows, nine columns: two row tiles, two column tiles, three of four output words.
        Descriptor(
            Opcode.GEMM,
            mode=Drain.SCORE,
            src_base=1,
            src_stride=3,
            src_words=2,
            aux_stride=2,
            dst_base=10,
            dst_stride=4,
            rows=3,
            cols=9,
            mult=3,
            shift=2,
        ),
        Descriptor(Opcode.STORE, memory=Memory.WIDE, region=Region.OUTPUT, src_base=10, length=128),
        END,
    ]
    old_i16 = rng.integers(-1000, 1000, (8, 2, 4), dtype=np.int16)
    result, output = run_by_hand(descriptors, image(act_i8, weight_i8, old_i16))
    assert result.error is ErrorCode.NONE and result.executed == 7
    found = np.frombuffer(output, np.int16, 64).reshape(8, 2, 4)
    for tile, lane, column in np.ndindex(2, 2, 12):
        acc = sum(
            int(act_i8[1 + 3 * tile + k, lane, p]) * int(weight_i8[column // 8 * 2 + k, column % 8, p])
            for k, p in np.ndindex(2, 4)
        )
        expected = max(-32768, min(32767, (acc * 3 + 2) >> 2))
        assert found[4 * tile + column // 4, lane, column % 4] == expected
    assert (found[[3, 7]] == old_i16[[3, 7]]).all()


def test_keys_and_values_by_hand():
    act_i8 = np.random.default_rng(2).integers(-128, -120, (8, 2, 4), dtype=np.int8)
    machine = Machine(CONFIG)
    machine.raw[Memory.ACT][:8] = act_i8.view(np.uint8).reshape(8, 8)
    machine.execute(BEGIN)  # five tokens: three row tiles
    machine.execute(Descriptor(Opcode.KEYS, src_base=1, src_stride=2, src_words=2, dst_base=5, dst_stride=3))
    machine.execute(Descriptor(Opcode.VALUES, src_base=1, src_stride=2, src_words=2, dst_base=20, dst_stride=3))
    weight_i8 = machine.raw[Memory.WEIGHT].view(np.int8).reshape(-1, 8, 4)
    for token, word, position in np.ndindex(6, 2, 4):
        expected = max(int(act_i8[1 + token // 2 * 2 + word, token % 2, position]), -127)
        channel = 4 * word + position
        assert weight_i8[5 + word, token, position] == expected
        assert weight_i8[20 + token // 4, channel, token % 4] == expected
    assert not weight_i8[5:7, 6:].any() and not weight_i8[21, :, 2:].any()


def test_uniform_skips_cls_and_padding():
    """Five tokens: the ones of one row tile, and the scales of all three, which the pooled mean then uses."""
    machine = Machine(CONFIG, np.random.default_rng(3))
    machine.execute(BEGIN)
    machine.execute(Descriptor(Opcode.UNIFORM, dst_base=7, row_base=2, mult=1 << 15, shift=15))
    lanes = machine.raw[Memory.ACT][7:9].reshape(2, 2, 4).transpose(1, 0, 2).reshape(2, 8)
    assert lanes.tolist() == [[0, 1, 1, 1, 1, 0, 0, 0]] * 2
    machine.execute(Descriptor(Opcode.VALUES, src_base=100, src_stride=2, src_words=2, dst_base=40))
    mean = {"src_base": 7, "aux_base": 40, "cols": 8, "dst_base": 200, "dst_stride": 2, "row_base": 2}
    machine.execute(Descriptor(Opcode.GEMM, mode=Drain.ROW_SCALE, **mean))
    rows_i8 = machine.raw[Memory.ACT].view("i1")[100:106].reshape(3, 2, 2, 4).transpose(0, 2, 1, 3).reshape(6, 8)
    total = np.maximum(rows_i8[1:5].astype(np.int64), -127).sum(axis=0)
    expected = requantize(total, *row_scale(np.array(4), 1 << 15, 15), 8)
    found = machine.raw[Memory.ACT].view("i1")[200:206].reshape(3, 2, 2, 4).transpose(0, 2, 1, 3).reshape(6, 8)
    assert found.tolist() == [expected.tolist()] * 6


LOAD = Descriptor(Opcode.LOAD, memory=Memory.ACT, length=64)
STORE = Descriptor(Opcode.STORE, memory=Memory.ACT, region=Region.OUTPUT, length=64)
GEMM = Descriptor(Opcode.GEMM, src_words=1, rows=2, cols=8)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Descriptor(0), ErrorCode.BAD_OPCODE),
        (Descriptor(13), ErrorCode.BAD_OPCODE),
        (Descriptor(Opcode.KEYS, src_words=1, picture=1), ErrorCode.BAD_OPCODE),
        (replace(GEMM, mode=7), ErrorCode.BAD_OPCODE),
        (replace(LOAD, dst_base=8185), ErrorCode.BAD_ADDRESS),
        (replace(LOAD, memory=Memory.TOKEN), ErrorCode.BAD_ADDRESS),
        (replace(LOAD, memory=5), ErrorCode.BAD_ADDRESS),
        (replace(LOAD, region=3), ErrorCode.BAD_ADDRESS),
        (replace(LOAD, offset=64), ErrorCode.BAD_ADDRESS),
        (replace(LOAD, offset=8), ErrorCode.BAD_ADDRESS),
        (replace(LOAD, length=0), ErrorCode.BAD_ADDRESS),
        (replace(LOAD, length=32), ErrorCode.BAD_ADDRESS),
        (replace(STORE, memory=Memory.WEIGHT), ErrorCode.BAD_ADDRESS),
        (replace(STORE, offset=256), ErrorCode.BAD_ADDRESS),
        (replace(STORE, memory=Memory.TOKEN, src_base=33), ErrorCode.BAD_ADDRESS),
        (replace(GEMM, src_base=8192), ErrorCode.BAD_ADDRESS),
        (replace(GEMM, aux_base=4096), ErrorCode.BAD_ADDRESS),
        (replace(GEMM, param_base=511), ErrorCode.BAD_ADDRESS),
        (replace(GEMM, dst_base=8191), ErrorCode.BAD_ADDRESS),
        (replace(GEMM, mode=Drain.WIDE, dst_base=4095), ErrorCode.BAD_ADDRESS),
        (replace(GEMM, mode=Drain.ROW_SCALE, row_base=64), ErrorCode.BAD_ADDRESS),
        (Descriptor(Opcode.KEYS, src_words=1, dst_base=4096), ErrorCode.BAD_ADDRESS),
        (Descriptor(Opcode.VALUES, src_words=1, dst_base=4095), ErrorCode.BAD_ADDRESS),
        (Descriptor(Opcode.BEGIN, rows=65), ErrorCode.BAD_ADDRESS),
        (Descriptor(Opcode.COMPACT, src_words=1, index=32), ErrorCode.BAD_ADDRESS),
    ],
)
def test_errors_end_the_run(bad, code):
    result, _ = run_by_hand([BEGIN, LOAD, bad, LOAD, END], bytearray(64))
    assert (result.error, result.error_index, result.executed) == (code, 2, 2)


def test_wait_that_never_comes():
    result, _ = run_by_hand([BEGIN, LOAD, replace(GEMM, wait_load=3), LOAD, END], bytearray(64))
    assert (result.error, result.error_index, result.executed) == (ErrorCode.WATCHDOG, 2, 3)


def test_run_after_an_error():
    machine, regions = Machine(CONFIG), {Region.WEIGHTS: bytearray(64), Region.OUTPUT: bytearray(64)}
    bad = [BEGIN, Descriptor(Opcode.COMPACT, src_words=1), replace(LOAD, offset=64), END]
    first = machine.run(b"".join(d.pack() for d in bad), regions)
    assert (first.error, first.error_index) == (ErrorCode.BAD_ADDRESS, 2)
    second = machine.run(b"".join(d.pack() for d in (BEGIN, LOAD, STORE, END)), regions)
    assert (second.error, second.error_index, second.token_counts) == (ErrorCode.NONE, 0, [])


def test_legal_descriptors_next_to_the_errors():
    legal = [BEGIN, LOAD, replace(LOAD, dst_base=8184), STORE, replace(STORE, offset=192), GEMM, END]
    result, _ = run_by_hand(legal, bytearray(64))
    assert result.error is ErrorCode.NONE and result.executed == len(legal)


def test_program_without_end():
    result, _ = run_by_hand([BEGIN, LOAD], bytearray(64))
    assert (result.error, result.error_index, result.executed) == (ErrorCode.BAD_OPCODE, 2, 2)


def test_garbage_has_no_opcode():
    result = Machine(CONFIG).run(b"\xcc" * 128, {})
    assert (result.error, result.error_index) == (ErrorCode.BAD_OPCODE, 0)


def test_program_of_a_wrong_size():
    with pytest.raises(ValueError, match="program must be a multiple of 64 bytes, not 65"):
        Machine(CONFIG).run(b"\1" + END.pack(), {})


def test_waits_count_modulo():
    late = replace(LOAD, wait_vector=65535)  # 65535 completions are one behind none
    result, _ = run_by_hand([late, END], bytearray(64))
    assert result.error is ErrorCode.NONE
    result, _ = run_by_hand([replace(LOAD, wait_vector=1), END], bytearray(64))
    assert (result.error, result.error_index) == (ErrorCode.WATCHDOG, 0)
