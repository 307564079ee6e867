"""Cycle model without RTL: the replay of hand-made programs, sharing of ports, and what must hold of any network.

Testpoints
- memory model: refuses impossible values; read rate and store cycles in closed cases
- ports: nobody is slowed while a port suffices; who wants little gets it; the others share evenly
- hand-made programs have the cycles that were counted by hand; waits, a full queue and a slow fetch hold units back
- a program that waits forever, wrong token counts and END as work are refused
- in random networks every wait is respected, a unit does one descriptor at a time, in order; layers add up to cycles
- cycles rise with the token count and fall with a faster memory; values of weights do not matter
- latency table: one row a count, rising; the model loads without amaranth
"""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from programs import array, case

from hw.config import CONFIGS
from hw.cycles import estimate, live_tokens, replay, share_ports
from hw.isa import UNIT_OF, Descriptor, Memory, Opcode, Region, Unit
from hw.latency import Latency, estimate_network, latency_table
from hw.memory_model import MemoryModel
from hw.program import compile_network
from hw.timing import QUEUE_DEPTH
from hw.unit_cycles import Port, Tokens, unit_work
from model.config import NETWORKS
from quant.blank import blank_network
from quant.synthetic import random_network

TINY = CONFIGS["tiny"]
NEAR = MemoryModel(bytes_per_cycle=1000.0, first_beat_cycles=2)
FIRST_DISPATCH = 3 + 2 + 8
"""Cycle in which the first descriptor reaches its queue: start, address, first beat, and eight beats of eight bytes."""

END = Descriptor(Opcode.END)


def begin(rows, **waits):
    return Descriptor(Opcode.BEGIN, rows=rows, **waits)


def gemm(rows, cols, steps, **fields):
    return Descriptor(
        Opcode.GEMM, src_words=steps, src_stride=steps, aux_stride=steps, cols=cols, dst_stride=8, rows=rows, **fields
    )


@pytest.mark.parametrize("field", ["bytes_per_cycle", "first_beat_cycles"])
def test_memory_model_refuses_impossible_values(field):
    with pytest.raises(ValueError, match=f"{field} must be"):
        MemoryModel(**{field: 0})


def test_memory_rates():
    config = CONFIGS["zcu102_2048"]
    near, exact = MemoryModel(), partial(pytest.approx, rel=1e-9)
    assert near.read_rate(config, 256) == exact(51 / 16)  # four ports request enough to hide the latency
    assert near.read_rate(replace(config, axi_ports=1), 256) == exact(64 / (60 + 16 + 2))
    assert MemoryModel(bytes_per_cycle=4.0).read_rate(config, 512) == exact(0.25)


@pytest.mark.parametrize(
    ("word_bytes", "bytes_per_cycle", "latency", "measured"),
    [
        (256, 1e4, 20, 64.0), (256, 1e4, 60, 52.51), (256, 1e4, 100, 34.71), (256, 51, 60, 50.84), (256, 40, 60, 40.16),
        (512, 1e4, 20, 64.0), (512, 1e4, 60, 48.8), (512, 1e4, 100, 34.12), (512, 1e4, 140, 25.92),
        (512, 51, 60, 48.33), (512, 51, 100, 34.29), (512, 40, 60, 39.74),
    ],
)  # fmt: skip
def test_read_rate_is_that_of_the_core(word_bytes, bytes_per_cycle, latency, measured):
    """Bytes a cycle of the simulated zcu102_4096 (WIDE and WEIGHT) between LOADs of 64 and of 128 KiB."""
    config = CONFIGS["zcu102_4096"]
    rate = config.axi_bytes * MemoryModel(bytes_per_cycle, latency).read_rate(config, word_bytes)
    assert rate == pytest.approx(measured, rel=0.01)


def test_store_cycles():
    # One whole burst of 32 beats: filled, then sent; a second one is filled while the first is sent.
    assert NEAR.store_cycles(TINY, 0, 256, TINY.act_bytes) == 32 + 33
    assert NEAR.store_cycles(TINY, 0, 512, TINY.act_bytes) == 32 + 33 + 33
    assert NEAR.store_cycles(TINY, 192, 128, TINY.act_bytes) == 8 + 9 + 9  # a burst ends at a multiple of 256 bytes
    assert NEAR.store_cycles(TINY, 0, 64, 2) == 32 + 9  # words smaller than a beat


def test_ports_are_shared_evenly():
    read, write = Port.ACT_READ, Port.ACT_WRITE
    assert share_ports([{read: 0.5}, {read: 0.5, write: 1.0}, {}]) == [1.0, 1.0, 1.0]
    assert share_ports([{read: 1.0}, {read: 1.0}]) == [0.5, 0.5]
    assert share_ports([{read: 1.0}, {read: 0.25}]) == [0.75, 1.0]
    assert share_ports([{read: 1.0, write: 0.5}, {read: 1.0}, {write: 0.5}]) == [0.5, 0.5, 1.0]


def test_one_descriptor():
    spans, cycles, units = replay([begin(17), END], [], TINY, NEAR)
    issue = FIRST_DISPATCH + 2
    assert [(span.issue, span.done) for span in spans] == [(issue, issue + 18)]
    assert cycles == issue + 18 + 2 and units[Unit.VECTOR].busy == 18 and units[Unit.GEMM].busy == 0


def test_a_wait_holds_a_unit_back():
    spans, _, units = replay([begin(17), gemm(0, 8, 4, wait_vector=1), END], [], TINY, NEAR)
    # The count is new one cycle after done, the release one later; nine tiles of four steps, the last one four parts.
    assert spans[1].issue == spans[0].done + 2
    assert spans[1].done - spans[1].issue == 2 + 9 * 4 + 3 + 9 + 3 + 8 + 2
    # The descriptor is in its queue one cycle after its dispatch, and waits until the count is new.
    assert units[Unit.GEMM].waits[Unit.VECTOR] == units[Unit.GEMM].wait == spans[0].done + 1 - (FIRST_DISPATCH + 8 + 1)


def test_a_full_queue_holds_the_program_back():
    slow, count = gemm(64, 64, 16, wait_vector=1), QUEUE_DEPTH + 2
    (first, *gemms, last), _, units = replay([begin(64), *[slow] * count, begin(2), END], [], TINY, NEAR)
    # One descriptor runs and four wait: the last GEMM, and BEGIN behind it, move on when the second GEMM starts.
    assert last.issue == gemms[1].issue + 1 + 1 + 2
    assert units[Unit.VECTOR].starved == first.issue - 1 + last.issue - 1 - (first.done + 1)
    # Each goes into the array as soon as it is free, and comes out in order.
    work = unit_work(slow, Tokens(64), TINY, NEAR)
    for earlier, later in pairwise(gemms):
        assert later.issue == earlier.issue + work.lead + work.steady
        assert later.done == later.issue + work.cycles


def test_two_readers_of_one_port_take_turns():
    keys = Descriptor(Opcode.KEYS, src_words=16, src_stride=16, dst_stride=16, wait_vector=1)
    alone = replay([begin(64), keys, END], [], TINY, NEAR)[0][1]
    spans, _, units = replay([begin(64), gemm(64, 64, 16, wait_vector=1), keys, END], [], TINY, NEAR)
    assert alone.done - alone.issue == 5 + 32 * 16
    # Half speed while the other reads too; only the start-up of the pipelines is not shared.
    assert 2 * 32 * 16 <= spans[2].done - spans[2].issue <= 2 * 32 * 16 + 5
    assert units[Unit.OPERAND].contention == round(spans[2].done - spans[2].issue - (5 + 32 * 16))


def test_memory_latency_and_bandwidth():
    load = Descriptor(Opcode.LOAD, memory=Memory.WEIGHT, region=Region.WEIGHTS, length=8192)
    far = unit_work(load, Tokens(0), TINY, MemoryModel(1000.0, 60))
    assert far.cycles == pytest.approx(5 + 60 + 1024)  # 128 beats requested cover a latency of 60 and a burst
    assert unit_work(load, Tokens(0), TINY, MemoryModel(4.0, 60)).cycles == pytest.approx(5 + 60 + 2048)
    with pytest.raises(ValueError, match="that of a unit"):
        unit_work(END, Tokens(0), TINY, NEAR)


def test_impossible_programs_and_counts_are_refused():
    with pytest.raises(ValueError, match="waits forever at descriptor 0"):
        replay([begin(4, wait_gemm=1), END], [], TINY, NEAR)
    program = [begin(20), *(Descriptor(Opcode.COMPACT, src_words=2, index=index) for index in range(2)), END]
    assert live_tokens(program, [9, 9]) == [Tokens(0), Tokens(20, True), Tokens(9, True)]
    assert live_tokens(program, [20, 20]) == [Tokens(0), Tokens(20, False), Tokens(20, False)]
    for counts, message in (
        ([9], "each of 2 selectors, not 1"),
        ([21, 9], "2..20"),
        ([9, 10], "2..9"),
        ([9, 1], "2..9"),
    ):
        with pytest.raises(ValueError, match=message):
            live_tokens(program, counts)


def test_each_picture_has_its_own_live_tokens():
    compacts = [Descriptor(Opcode.COMPACT, src_words=2, picture=picture, index=picture) for picture in (1, 0)]
    keys = Descriptor(Opcode.KEYS, src_words=1, picture=1)
    program = [begin(20), Descriptor(Opcode.BEGIN, rows=30, picture=1), *compacts, keys, END]
    assert [tokens.live for tokens in live_tokens(program, [7, 9])] == [0, 0, 30, 20, 9]


@pytest.mark.parametrize("seed", range(6))
def test_waits_and_order_of_random_networks(seed):
    shape = (4, 8, 8)
    network, golden, _ = case(seed, shape)
    program = compile_network(network, array(shape), taps=bool(seed % 2))
    result = estimate(program, golden.num_tokens, MemoryModel())
    done = {unit: [] for unit in Unit}
    for descriptor, span in zip(program.descriptors, result.spans, strict=False):
        unit = UNIT_OF[Opcode(descriptor.opcode)]
        before = done[unit][-1] if done[unit] else 0
        assert span.done > max(span.issue, before) and (span.issue > before or unit is Unit.GEMM)
        for other, count in zip(Unit, descriptor.waits, strict=True):
            assert not count or done[other][count - 1] + 2 <= span.issue + 1e-6
        done[unit].append(span.done)
    assert sum(result.layers.values()) == result.cycles >= max(max(times) for times in done.values())
    for unit, cycles in result.units.items():
        assert cycles.busy + cycles.wait + cycles.starved + len(done[unit]) <= result.cycles + 2, unit
        assert min(cycles.busy, cycles.starved, *cycles.waits.values()) >= 0 and cycles.contention >= 0


def test_cycles_follow_tokens_and_memory():
    network, config = NETWORKS["digits"], CONFIGS["demo"]
    counts = [[50, 50], [40, 40], [40, 20], [20, 20], [20, 8], [2, 2]]
    cycles = [estimate_network(network, config, NEAR, count).cycles for count in counts]
    assert cycles[1:] == sorted(cycles[1:], reverse=True) and len(set(cycles)) == len(cycles)
    slower = [MemoryModel(16.0, 2), MemoryModel(16.0, 60), MemoryModel(4.0, 60), MemoryModel(1.0, 200)]
    cycles = [estimate_network(network, config, memory, [20, 8]).cycles for memory in slower]
    assert cycles == sorted(set(cycles))
    dense = estimate_network(network, config, NEAR, [])
    assert not any(layer.startswith("selectors") for layer in dense.layers)


def test_only_shapes_matter():
    config, topology = CONFIGS["demo"], NETWORKS["digits"]
    random = random_network(np.random.default_rng(2), topology)
    results = [estimate(compile_network(net, config), [30, 12], NEAR) for net in (random, blank_network(topology))]
    assert results[0] == results[1]
    dim, patches, live = topology.embed_dim, topology.num_patches + 1, [50, 30, 12, 12]
    macs = patches * topology.patch_dim * dim + topology.num_classes * dim
    macs += sum(n * (4 * dim + 2 * topology.mlp_hidden) * dim + 2 * n * n * dim for n in live)
    assert macs < results[0].macs < 1.15 * macs  # selectors, and the live tokens in whole words


def test_latency_table():
    counts = [2, 8, 20, 50]
    table = latency_table(NETWORKS["digits"], CONFIGS["demo"], NEAR, counts)
    assert [row.tokens for row in table] == counts and all(isinstance(row, Latency) for row in table)
    blocks = [row.block_cycles for row in table]
    assert blocks == sorted(set(blocks)) and all(row.selector_cycles > 0 for row in table)
    with pytest.raises(ValueError, match=r"2\.\.50"):
        latency_table(NETWORKS["digits"], CONFIGS["demo"], NEAR, [51])


def test_model_loads_without_amaranth():
    code = "import sys, hw.latency; sys.exit('amaranth' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
