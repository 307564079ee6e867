"""Cosimulation: the comparison itself on outputs of the numpy machine, then whole networks on the RTL in Verilator.

Testpoints
- an output of the machine compares exact, every layer of the compiled program is compared
- one wrong value anywhere is found, counted once and named by layer, head, row and channel; the first one is reported
- a wrong token count is a divergence of its own; a failed run counts as a mismatch; the summary has plain JSON types
- RTL: random networks with selectors equal the golden model in every layer, also with every bus channel stalled
- RTL: bad opcode, bad address, missing END, AXI read and write errors, watchdog: each ends its run with its code and
  descriptor index, and the run after it on the same core is exact; an abort at any time too; with and without stalls
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hw.config import CONFIGS
from hw.isa import ErrorCode, Memory, Opcode, Region
from hw.program import compile_network
from quant import reference
from quant.config import NetworkConfig
from quant.synthetic import random_config, random_network, random_picture
from sim.cosim import CosimReport, build_core, compare, cosimulate, make_job
from sim.job import Job, JobProgram, JobRun, Outcome
from sim.machine import Machine
from sim.report import summarise
from sim.runner import run_job

CONFIG = CONFIGS["tiny"]
TIMEOUT_CYCLES = 1_000_000
SMALL = NetworkConfig(
    image_size=8,
    patch_size=2,
    in_chans=1,
    num_classes=5,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_hidden=20,
    selectors=(1,),
)


def make_network(seed, shape=SMALL):
    """A network and two pictures, of which the first is pruned, if there is a selector."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, shape)
    return network, [random_picture(rng, shape) for _ in range(2)]


def machine_outcome(program, network, picture):
    """What the numpy machine leaves for a picture, as an outcome of a run."""
    packed = program.pack_input(reference.patchify(network, picture)[1:])
    output = bytearray(program.output_bytes)
    regions = {Region.WEIGHTS: bytearray(program.weights), Region.INPUT: bytearray(packed), Region.OUTPUT: output}
    result = Machine(program.config).run(program.program_bytes(), regions)
    return Outcome(bytes(output), cycles=100, token_counts=tuple(result.token_counts))


@pytest.fixture(scope="module")
def compared():
    """Network, picture, program and the machine's outcome."""
    network, pictures = make_network(3)
    program = compile_network(network, CONFIG, taps=True)
    return network, pictures[0], program, machine_outcome(program, network, pictures[0])


def with_byte(outcome, offset):
    """The outcome with one byte of its output changed."""
    output = bytearray(outcome.output)
    output[offset] ^= 1
    return replace(outcome, output=bytes(output))


def test_machine_compares_exact(compared):
    network, picture, program, outcome = compared
    result = compare(0, network, picture, program, outcome)
    golden = reference.run(network, picture)
    assert (result.mismatches, result.divergence, result.failure) == (0, None, "")
    assert result.kept_tokens == tuple(golden.num_tokens)
    assert result.layers == len(program.taps) + len(golden.num_tokens) + 2


@pytest.mark.parametrize("layer", ["patch_embed", "blocks.0.attn.scores", "selectors.0.token_score", "head"])
def test_one_wrong_value_is_named(compared, layer):
    network, picture, program, outcome = compared
    tap = next(tap for tap in program.taps if tap.name == layer)
    broken = with_byte(outcome, tap.offset + tap.head_bytes)
    result = compare(4, network, picture, program, broken)
    expected = reference.run(network, picture).taps[layer]
    head = 1 if expected.ndim == 3 else None
    first = int(expected[(1, 0, 0) if head else (0, 0)])
    found = result.divergence
    assert (found.picture, found.layer, found.head, found.row, found.channel) == (4, layer, head, 0, 0)
    assert (found.expected, found.got) == (first, first ^ 1)
    assert result.mismatches == (2 if layer == "head" else 1)  # the head is also what logits() reads
    assert str(found).startswith(f"picture 4, {layer}{' head 1' if head else ''}, row 0, channel 0: golden {first}")


def test_wrong_token_count_is_a_divergence(compared):
    network, picture, program, outcome = compared
    count = outcome.token_counts[0]
    result = compare(0, network, picture, program, replace(outcome, token_counts=(count + 1,)))
    assert result.mismatches == 1
    assert (result.divergence.layer, result.divergence.expected, result.divergence.got) == (
        "selectors.0.num_tokens",
        count,
        count + 1,
    )


def test_failed_run_is_never_exact(compared):
    network, picture, program, outcome = compared
    good = compare(0, network, picture, program, replace(outcome, busy_cycles={"gemm": 25}, wait_cycles={"load": 75}))
    bad = compare(1, network, picture, program, Outcome(error="timed out", is_hang=True))
    report = CosimReport((good, bad), (), False, 1.0, 2.0)
    assert not report.is_exact and report.mismatches == 1 and report.failures == ("picture 1: timed out",)
    summary = summarise(report)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["images"] == 2 and summary["first_divergence"] == "picture 1: timed out"
    assert summary["kept_tokens"] == [list(good.kept_tokens), []] and summary["cycles"] == [100, 0]
    assert summary["unit_busy"] == {"load": 0.0, "operand": 0.0, "gemm": 0.25, "vector": 0.0, "store": 0.0}
    assert summary["unit_wait"]["load"] == 0.75
    assert not CosimReport((), (), False, 0.0, 0.0).is_exact


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The core, built once and cached by content in the git-ignored build/."""
    folder = tmp_path_factory.mktemp("core")
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "build").symlink_to(cache)
    return build_core(CONFIG, folder)


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize(("seed", "stall_seed", "batch"), [(3, None, 1), (3, 1, 1), (4, None, 1), (3, 2, 2)])
def test_network_on_the_rtl_is_exact(model, tmp_path, seed, stall_seed, batch):
    network, pictures = make_network(seed)
    steps = []
    report = cosimulate(
        network,
        pictures,
        CONFIG,
        tmp_path,
        batch=batch,
        stall_seed=stall_seed,
        model=model,
        timeout_s=300,
        progress=lambda step, done, total: steps.append((step, done, total)),
    )
    assert report.failures == () and report.first_divergence is None and report.is_exact
    assert report.images == 2 and report.layers_compared > 60
    assert steps[-1] == ("compare", 2, 2) and ("simulate", 2 // batch, 2 // batch) in steps
    assert all(picture.outcome.cycles > 0 for picture in report.pictures)


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_topologies_on_the_rtl_are_exact(model, tmp_path, seed):
    rng = np.random.default_rng(seed)
    shape = random_config(rng, channel_multiple=CONFIG.depth, max_tokens=26)
    network = random_network(rng, shape)
    report = cosimulate(network, [random_picture(rng, shape)], CONFIG, tmp_path, model=model, timeout_s=300)
    assert report.failures == () and report.first_divergence is None and report.is_exact


def faulty_programs(program):
    """(name, descriptors, expected code, expected index) of programs that must fail."""
    descriptors = list(program.descriptors)
    middle = next(i for i, d in enumerate(descriptors) if d.opcode == Opcode.GEMM)
    load = next(i for i, d in enumerate(descriptors) if d.opcode == Opcode.LOAD and d.memory == Memory.WEIGHT)

    def changed(index, **fields):
        return [*descriptors[:index], replace(descriptors[index], **fields), *descriptors[index + 1 :]]

    last = len(descriptors) - 1
    return [
        ("bad opcode", changed(middle, opcode=200), ErrorCode.BAD_OPCODE, middle),
        ("no END", changed(last, opcode=int(Opcode.BEGIN), rows=2), ErrorCode.BAD_OPCODE, last + 1),
        ("on-chip address", changed(middle, src_base=0xFFF0), ErrorCode.BAD_ADDRESS, middle),
        ("DDR address", changed(load, offset=0xFFFF_FF00), ErrorCode.BAD_ADDRESS, load),
        ("deadlock", changed(middle, wait_store=0x7000), ErrorCode.WATCHDOG, None),
    ]


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize("stall_seed", [None, 7])
def test_core_recovers_from_every_error(model, tmp_path, stall_seed):
    network, pictures = make_network(3)
    program = compile_network(network, CONFIG, taps=True)
    good = make_job(network, pictures[:1], program).programs[0]
    packed = program.pack_input(reference.patchify(network, pictures[0])[1:])
    programs, runs, expected = [good], [], []

    def add(run, code, index):
        """A failing run, and a good one after it."""
        runs.extend((run, JobRun(0, packed, TIMEOUT_CYCLES)))
        expected.extend(((code, index), (ErrorCode.NONE, 0)))

    for _, descriptors, code, index in faulty_programs(program):
        image = b"".join(descriptor.pack() for descriptor in descriptors)
        programs.append(JobProgram(image, good.weights, good.input_bytes, good.output_bytes))
        add(JobRun(len(programs) - 1, packed, TIMEOUT_CYCLES, watchdog_cycles=20_000), code, index)
    for buffer, code in (
        ("PROGRAM", ErrorCode.AXI_READ),
        ("WEIGHTS", ErrorCode.AXI_READ),
        ("INPUT", ErrorCode.AXI_READ),
        ("OUTPUT", ErrorCode.AXI_WRITE),
    ):
        add(JobRun(0, packed, TIMEOUT_CYCLES, faulty_buffer=buffer), code, None)
    job = Job(CONFIG, tuple(programs), tuple(runs), stall_seed)
    outcomes = run_job(model, job, tmp_path, timeout_s=300)
    for number, (outcome, (code, index)) in enumerate(zip(outcomes, expected, strict=True)):
        assert outcome.error_code == code, (number, outcome.error)
        if index is not None:
            assert outcome.error_index == index, number
        if code == ErrorCode.NONE:
            assert compare(number, network, pictures[0], program, outcome).divergence is None, number


@pytest.mark.verilator
@pytest.mark.slow
def test_core_recovers_from_an_abort_at_any_time(model, tmp_path):
    """The driver's timeout aborts a run early, in the middle and late; the next run is exact."""
    network, pictures = make_network(3)
    program = compile_network(network, CONFIG, taps=True)
    good = make_job(network, pictures[:1], program)
    aborts = [JobRun(0, good.runs[0].input, cycles) for cycles in range(500, 6500, 500)]
    runs = tuple(run for abort in aborts for run in (abort, good.runs[0]))
    outcomes = run_job(model, Job(CONFIG, good.programs, runs), tmp_path, timeout_s=300)
    for number, (aborted, outcome) in enumerate(zip(outcomes[::2], outcomes[1::2], strict=True)):
        assert aborted.is_hang and "waiting for the run to end (status BUSY)" in aborted.error
        assert compare(number, network, pictures[0], program, outcome).mismatches == 0
