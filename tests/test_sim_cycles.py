"""The cycle model against the core in Verilator: single descriptors, token-count settings, and layer by layer.

The simulated DDR answers at once and without a bandwidth limit: NEAR.

Testpoints
- every opcode, drain mode and the sizes around the edges of its formula take exactly the modelled cycles
- over twelve token-count settings the total is within 1 %, and busy and wait cycles of each unit within 2 % of it
- layer by layer: a program cut off after a layer ends within 4 % of that layer, which no error of another one covers
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hw.config import CONFIGS
from hw.cycles import replay
from hw.isa import Descriptor, Drain, Memory, Opcode, Region, Unit
from hw.memory_model import MemoryModel
from hw.program import compile_network
from model.config import NETWORKS
from quant import reference
from quant.synthetic import random_network, random_picture
from sim.cosim import build_core
from sim.job import Job, JobProgram, JobRun
from sim.runner import run_job

CONFIG = CONFIGS["demo"]
NEAR = MemoryModel(bytes_per_cycle=1000.0, first_beat_cycles=2)
END = Descriptor(Opcode.END)
SETTINGS = [(share, later) for share in (1.0, 0.8, 0.5, 0.1) for later in (1.0, 0.6, 0.2)]
"""Shares of the patches that each of two selectors keeps."""

MIN_LAYER_SHARE = 0.01
"""Layers of less than this part of all cycles are a handful of cycles beside the array; their error is in the total."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The demo core, built once and cached by content in the git-ignored build/."""
    folder = tmp_path_factory.mktemp("core")
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "build").symlink_to(cache)
    return build_core(CONFIG, folder)


def run_programs(model, folder, programs):
    """Run (descriptors, weights, input, output bytes) one after the other; return their outcomes."""
    codes = tuple(
        JobProgram(b"".join(descriptor.pack() for descriptor in descriptors), weights, len(packed), output)
        for descriptors, weights, packed, output in programs
    )
    runs = tuple(JobRun(i, packed, 1_000_000) for i, (_, _, packed, _) in enumerate(programs))
    outcomes = run_job(model, Job(CONFIG, codes, runs), folder, timeout_s=600)
    assert [outcome.error for outcome in outcomes] == [""] * len(outcomes)
    return outcomes


def single_descriptors():
    """(unit, program) of every opcode on both sides of the edges of its formula."""
    cases = []
    for rows in (2, 4, 5, 17, 26, 50):
        live = Descriptor(Opcode.BEGIN, rows=rows)
        cases.append((Unit.VECTOR, [live]))
        for opcode in (Opcode.SOFTMAX, Opcode.UNIFORM):
            strides = {} if opcode == Opcode.UNIFORM else {"src_stride": 16, "dst_stride": 16}
            cases.append((Unit.VECTOR, [live, Descriptor(opcode, mult=30000, shift=10, **strides)]))
        for heads in (1, 9):
            for threshold in (0, 65535):
                select = Descriptor(Opcode.SELECT, src_stride=4, aux_stride=4, heads=heads, threshold=threshold)
                compacts = [Descriptor(Opcode.COMPACT, src_stride=5, src_words=words) for words in (1, 5)]
                if rows > 2:  # of two tokens, one pruned and a package again make two: the model takes it as none
                    cases += [(Unit.VECTOR, [live, select, compact]) for compact in compacts]
        for opcode in (Opcode.KEYS, Opcode.VALUES):
            fields = {"src_stride": 4, "src_words": 4, "dst_stride": 8, "wait_vector": 1}
            cases.append((Unit.OPERAND, [live, Descriptor(opcode, **fields)]))
        for words in (2, 12, 13, 40, 80):
            fields = {"src_words": words, "src_stride": words, "dst_stride": words, "dim": 8 * words}
            cases.append((Unit.VECTOR, [Descriptor(Opcode.LAYER_NORM, **fields, shift=10, addend=1, rows=rows)]))
        for mode in Drain:
            for cols, steps in ((1, 1), (8, 2), (9, 8), (24, 1), (24, 3), (8, 40)):
                fields = {"src_words": steps, "src_stride": steps, "aux_stride": steps, "cols": cols, "dst_stride": 4}
                cases.append((Unit.GEMM, [live, Descriptor(Opcode.GEMM, mode=mode, wait_vector=1, **fields)]))
    for length in (64, 256, 320, 4096):
        for memory in (Memory.ACT, Memory.WIDE, Memory.WEIGHT, Memory.PARAM):
            cases.append((Unit.LOAD, [Descriptor(Opcode.LOAD, memory=memory, length=length, offset=64)]))
        for memory in (Memory.ACT, Memory.WIDE):
            store = Descriptor(Opcode.STORE, memory=memory, region=Region.OUTPUT, length=length, offset=64)
            cases.append((Unit.STORE, [store]))
    cases.append((Unit.STORE, [Descriptor(Opcode.STORE, memory=Memory.TOKEN, region=Region.OUTPUT, length=128)]))
    return [(unit, [*program, END]) for unit, program in cases]


@pytest.mark.verilator
@pytest.mark.slow
def test_single_descriptors_are_exact(model, tmp_path):
    cases = single_descriptors()
    outcomes = run_programs(model, tmp_path, [(program, bytes(8192), bytes(64), 8192) for _, program in cases])
    for (unit, program), outcome in zip(cases, outcomes, strict=True):
        counts = [outcome.token_counts[0]] * sum(descriptor.opcode == Opcode.COMPACT for descriptor in program)
        _, cycles, units = replay(program, counts, CONFIG, NEAR)
        name = unit.name.lower()
        measured = (outcome.busy_cycles[name], outcome.wait_cycles[name], outcome.cycles)
        assert (units[unit].busy, units[unit].wait, cycles) == measured, program


def gemm_sequences():
    """Programs of four independent GEMMs, whose drain overlaps the array's next command."""
    for mode in Drain:
        for other in (mode, Drain.GELU, Drain.INT8):
            for cols, steps in ((8, 2), (9, 8), (24, 1), (24, 3), (8, 40)):
                fields = {"src_words": steps, "src_stride": steps, "aux_stride": steps, "cols": cols, "dst_stride": 4}
                gemms = [Descriptor(Opcode.GEMM, mode=each, wait_vector=1, **fields) for each in (mode, other) * 2]
                yield [Descriptor(Opcode.BEGIN, rows=26), *gemms, END]


@pytest.mark.verilator
@pytest.mark.slow
def test_overlapping_gemms_are_exact(model, tmp_path):
    programs = list(gemm_sequences())
    outcomes = run_programs(model, tmp_path, [(program, bytes(8192), bytes(64), 8192) for program in programs])
    for program, outcome in zip(programs, outcomes, strict=True):
        _, cycles, units = replay(program, [], CONFIG, NEAR)
        assert (units[Unit.GEMM].busy, cycles) == (outcome.busy_cycles["gemm"], outcome.cycles), program


def pruned(network, picture_u8, shares):
    """Return the network with thresholds that keep these shares of the patches, and its token counts."""
    for stage, share in enumerate(shares):
        scores = np.sort(reference.run(network, picture_u8).taps[f"selectors.{stage}.keep_score"][1:])
        threshold = 0 if share == 1.0 else int(scores[round((1 - share) * (len(scores) - 1))]) + 1
        selectors = list(network.selectors)
        selectors[stage] = replace(selectors[stage], threshold_u16=min(threshold, 65535))
        network = replace(network, selectors=tuple(selectors))
    return network, reference.run(network, picture_u8).num_tokens


def make_case():
    """A network of two selectors with every layer longer than its pipeline, and a picture."""
    rng = np.random.default_rng(5)
    topology = replace(NETWORKS["digits"], embed_dim=96, num_heads=3, mlp_hidden=192, depth=3, selectors=(1, 2))
    return random_network(rng, topology), random_picture(rng, topology)


@pytest.mark.verilator
@pytest.mark.slow
def test_networks_over_token_counts(model, tmp_path):
    network, picture_u8 = make_case()
    programs, all_counts = [], []
    for shares in SETTINGS:
        variant, counts = pruned(network, picture_u8, shares)
        program = compile_network(variant, CONFIG)
        packed = program.pack_input(reference.patchify(variant, picture_u8)[1:])
        programs.append((program.descriptors, program.weights, packed, program.output_bytes))
        all_counts.append(list(counts))
    assert len({tuple(counts) for counts in all_counts}) > 8
    for (descriptors, *_), counts, outcome in zip(
        programs, all_counts, run_programs(model, tmp_path, programs), strict=True
    ):
        _, cycles, units = replay(descriptors, counts, CONFIG, NEAR)
        print(counts, outcome.cycles, cycles, f"{cycles / outcome.cycles - 1:+.2%}")
        assert abs(cycles - outcome.cycles) <= 0.01 * outcome.cycles, counts
        for unit in Unit:
            name = unit.name.lower()
            errors = (units[unit].busy - outcome.busy_cycles[name], units[unit].wait - outcome.wait_cycles[name])
            assert max(map(abs, errors)) <= 0.02 * outcome.cycles, (counts, unit, errors)


@pytest.mark.verilator
@pytest.mark.slow
def test_layer_by_layer(model, tmp_path):
    network, picture_u8 = make_case()
    variant, counts = pruned(network, picture_u8, (0.6, 0.6))
    program = compile_network(variant, CONFIG)
    packed = program.pack_input(reference.patchify(variant, picture_u8)[1:])
    layers = program.layers
    cuts = [i + 1 for i in range(len(layers) - 1) if layers[i] not in layers[i + 1 :]]
    programs = [((*program.descriptors[:cut], END), program.weights, packed, program.output_bytes) for cut in cuts]
    outcomes = run_programs(model, tmp_path, programs)
    last_measured = last_modelled = compared = 0
    for cut, (descriptors, *_), outcome in zip(cuts, programs, outcomes, strict=True):
        compacts = sum(descriptor.opcode == Opcode.COMPACT for descriptor in descriptors)
        _, cycles, _ = replay(descriptors, counts[:compacts], CONFIG, NEAR)
        measured, modelled = outcome.cycles - last_measured, cycles - last_modelled
        print(f"{layers[cut - 1]:28s} {measured:6d} {modelled:6d}")
        if measured >= MIN_LAYER_SHARE * outcomes[-1].cycles:
            compared += 1
            assert abs(modelled - measured) <= 0.04 * measured, layers[cut - 1]
        last_measured, last_modelled = outcome.cycles, cycles
    assert compared > 15
