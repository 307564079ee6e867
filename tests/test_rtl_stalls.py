"""Counters of why units do not go on, alone and in the whole core.

Testpoints
- each counter counts its own reason, one cycle late, only while running; a start clears them
- hand-made programs on the core: a wait for LOAD is weight, one for another unit is not; short tiles wait for the
  drain; units that read or write one memory at the same time hold each other up, one after the other they do not
- a slower DDR is memory of LOAD and STORE; nothing is counted twice: no descriptor loses more than its time
- the driver's counts of a run are those of its descriptors; the next run starts from zero
"""

from dataclasses import replace
from pathlib import Path

import pytest
from rtl_streams import run

from bitstreams.driver import HeatVit
from hw.config import CONFIGS
from hw.isa import Descriptor, Memory, Opcode, Region, Unit
from hw.regmap import STALLS, Stall, stall_register
from hw.rtl.stalls import StallCounters
from hw.timing import drain_width
from sim.cosim import build_process_core
from sim.job import JobProgram
from sim.process import DdrModel, ProcessTransport

CONFIG = CONFIGS["tiny"]  # 2 rows x 8 columns x depth 4: a tile has two output words
AT_ONCE = DdrModel(bytes_per_cycle=0, latency_cycles=0)
SLOW = DdrModel(bytes_per_cycle=2, latency_cycles=50)
END = Descriptor(Opcode.END)


def test_counters_count_their_own_reason():
    counters = StallCounters()
    assert counters.names[0] == "stall_load_memory" and len(set(counters.names)) == len(counters.names) == 11
    first, last = counters.names[0], counters.names[-1]

    async def testbench(ctx):
        ctx.set(counters.reasons, 1)
        await ctx.tick().repeat(3)
        assert ctx.get(getattr(counters, first)) == 0  # not running
        ctx.set(counters.is_running, 1)
        ctx.set(counters.clear, 1)
        await ctx.tick()
        ctx.set(counters.clear, 0)
        await ctx.tick().repeat(5)
        ctx.set(counters.reasons, 1 << 10)
        await ctx.tick().repeat(4)
        ctx.set(counters.is_running, 0)
        await ctx.tick().repeat(2)
        # The cycle before the first tick here was seen too, the last one of the second reason was not.
        counts = {name: ctx.get(getattr(counters, name)) for name in counters.names}
        assert counts == dict.fromkeys(counters.names, 0) | {first: 6, last: 3}
        ctx.set(counters.clear, 1)
        await ctx.tick()
        assert ctx.get(getattr(counters, first)) == ctx.get(getattr(counters, last)) == 0

    run(counters, testbench)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The core with its DDR, built once and cached by content in the git-ignored build/."""
    folder = tmp_path_factory.mktemp("core")
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "build").symlink_to(cache)
    return build_process_core(CONFIG, folder)


def measure(model, *descriptors, ddr=AT_ONCE, runs=1):
    """Run descriptors; return what the driver counted in the last run, and the times of its descriptors."""
    code = JobProgram(b"".join(each.pack() for each in (*descriptors, END)), bytes(4096), 64, 4096)
    with ProcessTransport(model, ddr) as transport, HeatVit(transport, CONFIG) as core:
        core.load(code)
        for _ in range(runs):
            transport.take_times()
            result = core.infer(bytes(64), 0.1)
        return result, transport.take_times()


def begin(rows=32):
    return Descriptor(Opcode.BEGIN, rows=rows)


def load(**fields):
    return Descriptor(Opcode.LOAD, memory=Memory.WEIGHT, length=1024, **fields)


def gemm(steps, **fields):
    return Descriptor(
        Opcode.GEMM, rows=32, cols=8, src_words=steps, src_stride=steps, aux_stride=steps, dst_stride=2, **fields
    )


def keys(**fields):
    return Descriptor(Opcode.KEYS, src_words=8, src_stride=8, dst_base=128, dst_stride=8, **fields)


@pytest.mark.verilator
def test_a_wait_for_weights_is_no_dependency(model):
    result, times = measure(model, begin(), load(), gemm(8, wait_load=1, wait_vector=1), ddr=SLOW)
    assert result.stall_cycles["gemm"]["weight"] == result.wait_cycles["gemm"] > 400
    counts = times.counts[Unit.GEMM]
    assert counts["weight"] == counts["wait"] == [result.wait_cycles["gemm"]]
    result, _ = measure(model, begin(), gemm(8, wait_vector=1))
    assert result.stall_cycles["gemm"]["weight"] == 0 and result.wait_cycles["gemm"] > 20
    result, _ = measure(model, begin(), keys(wait_vector=1), gemm(8, wait_operand=1))
    assert result.stall_cycles["gemm"]["weight"] == result.wait_cycles["gemm"] > 100


@pytest.mark.verilator
def test_short_tiles_wait_for_the_drain(model):
    short, long = (measure(model, begin(), gemm(steps, wait_vector=1))[0] for steps in (1, 8))
    # A tile of one step waits for the other parts of the tile before, the first one for its constants.
    tiles, parts, constants = 16, CONFIG.columns // drain_width(CONFIG), 3
    assert short.stall_cycles["gemm"]["drain"] == (tiles - 1) * (parts - 1) + constants
    assert long.stall_cycles["gemm"]["drain"] == 0
    assert short.stall_cycles["gemm"]["operand"] == 0


@pytest.mark.verilator
def test_units_that_share_a_memory_hold_each_other_up(model):
    reads = 16 * 8
    together, _ = measure(model, begin(), keys(wait_vector=1), gemm(8, wait_vector=1))
    alone, _ = measure(model, begin(), keys(wait_vector=1), gemm(8, wait_operand=1))
    assert alone.stall_cycles["gemm"]["operand"] == alone.stall_cycles["operand"]["operand"] == 0
    lost = {name: together.stall_cycles[name]["operand"] for name in ("gemm", "operand")}
    assert reads - 16 < lost["gemm"] <= reads and reads - 16 < lost["operand"] <= reads
    for name, stall in lost.items():
        assert together.busy_cycles[name] - alone.busy_cycles[name] == pytest.approx(stall, abs=2)
    # LOAD writes its 32 words of WEIGHT while KEYS wants to write one in every cycle.
    together, _ = measure(model, begin(), keys(wait_vector=1), load(wait_vector=1))
    assert 0 < together.stall_cycles["operand"]["drain"] <= 32 and alone.stall_cycles["operand"]["drain"] == 0


@pytest.mark.verilator
def test_a_slow_ddr_is_memory(model):
    store = Descriptor(Opcode.STORE, memory=Memory.ACT, region=Region.OUTPUT, length=1024)
    fast, slow = (measure(model, load(), store, ddr=ddr)[0] for ddr in (AT_ONCE, SLOW))
    for name in ("load", "store"):
        added = slow.busy_cycles[name] - fast.busy_cycles[name]
        assert added > 200
        assert slow.stall_cycles[name]["memory"] - fast.stall_cycles[name]["memory"] == pytest.approx(added, rel=0.1)


@pytest.mark.verilator
def test_counts_of_the_driver_are_those_of_the_descriptors(model):
    program = [begin(), load(), keys(wait_vector=1), gemm(8, wait_vector=1), gemm(1, wait_load=1), load(wait_gemm=1)]
    result, times = measure(model, *program, ddr=SLOW, runs=2)
    first, _ = measure(model, *program, ddr=SLOW)
    assert replace(result, cycles=0) == replace(first, cycles=0)
    for unit, stalls in STALLS.items():
        name, counts = unit.name.lower(), times.counts[unit]
        for stall in Stall:
            total = result.stall_cycles[name].get(stall.value, 0)
            assert counts[stall.value] == sorted(counts[stall.value]), stall_register(unit, stall)
            # The counters are two cycles behind when a descriptor is done: the next one inherits those.
            assert 0 <= total - (counts[stall.value] or [0])[-1] <= 2 and (stall in stalls or total == 0)
        assert (counts["wait"] or [0])[-1] == result.wait_cycles[name]
        lost = [total for stall, total in result.stall_cycles[name].items() if stall != "weight"]
        assert sum(lost) <= result.busy_cycles[name]
