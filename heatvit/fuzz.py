"""Fuzzing: random networks, accelerators, pictures and bus stalls; golden model, machine and RTL must agree exactly.

Nearly all the time goes into Verilator builds (half a minute each), so a call draws a pool of accelerators first, one
for every ten runs, and the runs take turns; builds are cached by content. Run i of a seed is the same whatever the
number of runs is, as long as the pool has the same size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from heatvit.progress import Report
from heatvit.steps import run_step, source_digest
from hw.config import AccelConfig
from hw.isa import ErrorCode
from hw.program import compile_network
from quant.network import U8, IntegerNetwork
from quant.reference import run as run_golden
from quant.synthetic import random_config, random_network, random_picture
from sim.cosim import PictureComparison, build_core, cosimulate
from sim.job import Outcome
from sim.machine_check import compare_on_machine
from sim.verilator import SimulationModel

RUNS_PER_CONFIG = 10
MAX_MACS = 512
"""Largest array of the pool: a build takes about as long as it has multipliers."""
NO_FIT = re.compile(r"(act|wide|weight|param)_words must |max_tokens must be ")
"""How the compiler begins to say that a network is too large for an accelerator; other complaints are findings."""
MAX_DRAWS = 200
"""Networks tried until one fits the accelerator; a pool whose buffers are this unlucky is a bug."""


class Thresholds(Enum):
    """What the selectors of a run are made to do to its first picture."""

    RANDOM = "random"
    KEEP_ALL = "keep all"
    PRUNE_ALL = "prune all"
    TIE = "tie"


@dataclass(frozen=True)
class Case:
    """One run. pictures_u8 (B, in_chans, size, size), one after the other or, with batch B, all in one program.

    stall_seed None lets the buses run freely.
    """

    config: AccelConfig
    network: IntegerNetwork
    thresholds: Thresholds
    pictures_u8: U8
    batch: int
    stall_seed: int | None


def draw_config(rng: np.random.Generator) -> AccelConfig:
    """Draw a legal accelerator of at most MAX_MACS multipliers, with buffers that random networks fit now and then."""
    while True:
        depth = int(rng.choice([2, 4, 8]))
        rows = int(rng.choice([size for size in (2, 4, 8) if size <= depth]))
        columns = depth * int(rng.choice([1, 2, 4]))
        if columns >= 4 and rows * columns * depth <= MAX_MACS:
            break
    act_words, wide_words = (int(rng.integers(1024, 4097)) for _ in range(2))
    return AccelConfig(
        rows=rows,
        columns=columns,
        depth=depth,
        act_words=act_words,
        wide_words=wide_words,
        weight_words=int(rng.integers(256, 2049)),
        param_words=int(rng.integers(64, 513)),
        max_tokens=int(rng.choice([32, 64])),
        pictures=int(rng.integers(1, 5)),
        axi_bytes=int(rng.choice([4, 8, 16])),
        axi_ports=int(rng.integers(1, 5)),
    )


def draw_pool(seed: int, runs: int) -> list[AccelConfig]:
    """Return the accelerators of a fuzz call, one for every RUNS_PER_CONFIG runs."""
    return [draw_config(np.random.default_rng([seed, index])) for index in range(math.ceil(runs / RUNS_PER_CONFIG))]


def draw_case(seed: int, run: int, config: AccelConfig) -> Case:
    """Draw run number `run` for an accelerator: a network that fits, one to three pictures, bus stalls mostly."""
    rng = np.random.default_rng([seed, 1 << 20, run])
    network = _fitting_network(rng, config)
    pictures_u8 = np.stack([random_picture(rng, network.config) for _ in range(rng.integers(1, 4))])
    # Each round starts one further, so that an accelerator meets all of them whatever the size of the pool is.
    kinds = list(Thresholds)
    thresholds = kinds[(run + run // len(kinds)) % len(kinds)]
    network = with_thresholds(network, thresholds, pictures_u8[0], rng)
    stall_seed = int(rng.integers(1 << 31)) if rng.random() < 2 / 3 else None
    batch = len(pictures_u8) if rng.random() < 1 / 2 and _fits(network, config, len(pictures_u8)) else 1
    return Case(config, network, thresholds, pictures_u8, batch, stall_seed)


def with_thresholds(
    network: IntegerNetwork, thresholds: Thresholds, picture_u8: U8, rng: np.random.Generator
) -> IntegerNetwork:
    """Return the network with its selectors' thresholds set; TIE takes the score of one of the picture's tokens."""
    for stage in range(len(network.selectors)):
        if thresholds is Thresholds.RANDOM:
            return network
        if thresholds is Thresholds.TIE:
            scores_u16 = run_golden(network, picture_u8).taps[f"selectors.{stage}.keep_score"]
            code = int(rng.choice(scores_u16[1:])) if len(scores_u16) > 1 else 0
        else:
            code = 0 if thresholds is Thresholds.KEEP_ALL else 65535
        selectors = list(network.selectors)
        selectors[stage] = replace(selectors[stage], threshold_u16=code)
        network = replace(network, selectors=tuple(selectors))
    return network


def _fitting_network(rng: np.random.Generator, config: AccelConfig) -> IntegerNetwork:
    for _ in range(MAX_DRAWS):
        topology = random_config(rng, channel_multiple=config.depth, max_tokens=min(config.max_tokens, 40))
        network = random_network(rng, topology)
        if _fits(network, config, 1):
            return network
    raise ValueError(f"no random network of {MAX_DRAWS} fits {config!r}")


def _fits(network: IntegerNetwork, config: AccelConfig, pictures: int) -> bool:
    if pictures > config.pictures:
        return False
    try:
        compile_network(network, config, taps=True, pictures=pictures)
    except ValueError as error:
        if not NO_FIT.match(str(error)):
            raise  # the compiler broke one of its own rules
        return False
    return True


def run_case(case: Case, work: Path, core_of: Callable[[AccelConfig], SimulationModel]) -> dict[str, Any]:
    """Run a case on golden model, machine and RTL; return what was compared, and every disagreement, as JSON types.

    core_of gives the simulated core of an accelerator; work receives the files of the simulation.
    """
    machine = compare_machine(case)
    core = core_of(case.config)
    batch, stall_seed = case.batch, case.stall_seed
    rtl = cosimulate(case.network, case.pictures_u8, case.config, work, batch=batch, stall_seed=stall_seed, model=core)
    hangs = sum(_is_hang(picture.outcome) for picture in rtl.pictures)
    divergences = [picture.divergence for picture in machine if picture.divergence]
    problems = [f"machine: {divergence}" for divergence in divergences]
    problems += [f"machine: {picture.failure}" for picture in machine if picture.failure]
    problems += [f"RTL: {problem}" for problem in (*rtl.failures, rtl.first_divergence) if problem]
    return {
        "config": case.config.to_dict(),
        "network": case.network.config.to_dict(),
        "thresholds": case.thresholds.value,
        "stall_seed": case.stall_seed,
        "batch": case.batch,
        "pictures": len(case.pictures_u8),
        "token_counts": [_token_counts(case.network, picture_u8) for picture_u8 in case.pictures_u8],
        "layers_compared": rtl.layers_compared + sum(picture.layers for picture in machine),
        "rtl_mismatches": rtl.mismatches - hangs,
        "machine_mismatches": sum(picture.mismatches + bool(picture.failure) for picture in machine),
        "hangs": hangs,
        "problems": problems,
    }


def compare_machine(case: Case) -> list[PictureComparison]:
    """Run the case's pictures on one machine that starts with garbage in its memories, in a random legal order."""
    program = compile_network(case.network, case.config, taps=True, pictures=case.batch)
    return compare_on_machine(case.network, case.pictures_u8, program, np.random.default_rng(len(program.descriptors)))


def _is_hang(outcome: Outcome) -> bool:
    """Tell whether a run stopped making progress: by the simulator's clock or by the core's own watchdog."""
    return outcome.is_hang or outcome.error_code == ErrorCode.WATCHDOG


def _token_counts(network: IntegerNetwork, picture_u8: U8) -> list[int]:
    """Return the live tokens at the start and after each selector."""
    return [network.config.num_tokens, *run_golden(network, picture_u8, taps=False).num_tokens]


def fuzz(seed: int, runs: int, work: Path, report: Report) -> dict[str, Any]:
    """Run cases 0..runs-1 of a seed. An interrupted call goes on after its last whole case, unless sources changed.

    token_counts_seen are all live token counts that occurred, before and after selectors; mismatches counts values.
    """
    pool = draw_pool(seed, runs)
    sources = source_digest(["heatvit", "quant", "hw", "sim", "bitstreams"])
    folder = work / "fuzz" / f"seed_{seed}_configs_{len(pool)}"
    work = work.resolve()  # the simulation runs in a folder of its own, where a relative path means another place
    core_of = cache(lambda config: build_core(config, work))
    results = []
    for run in range(runs):
        report("fuzz", run, runs)
        config = pool[run % len(pool)]
        stamp = folder / f"run_{run}.json"
        case = draw_case(seed, run, config)
        step = run_step(stamp, {"sources": sources}, [], partial(run_case, case, work, core_of))
        results.append({"run": run, **step.values})
    report("fuzz", runs, runs)
    return summarise_runs(seed, pool, results)


def summarise_runs(seed: int, pool: list[AccelConfig], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the results of run_case; failed holds those in which anything disagreed."""
    counts = {count for result in results for picture in result["token_counts"] for count in picture}
    failed = [
        result for result in results if result["rtl_mismatches"] + result["machine_mismatches"] + result["hangs"] > 0
    ]
    return {
        "seed": seed,
        "runs": len(results),
        "mismatches": sum(result["rtl_mismatches"] + result["machine_mismatches"] for result in results),
        "hangs": sum(result["hangs"] for result in results),
        "pictures": sum(result["pictures"] for result in results),
        "layers_compared": sum(result["layers_compared"] for result in results),
        "shared_runs": sum(result["batch"] > 1 for result in results),
        "stalled_runs": sum(result["stall_seed"] is not None for result in results),
        "thresholds": {kind.value: sum(r["thresholds"] == kind.value for r in results) for kind in Thresholds},
        "token_counts_seen": sorted(counts),
        "configs": [config.to_dict() for config in pool],
        "failed": failed,
    }
