"""Mutation test: break one operator or constant of an integer function or an RTL unit, run that unit's tests, count.

`make mutants` prints one line a mutant and the share that the tests caught. Every mutant lives in a temporary copy
of the tree, so an interrupted run leaves nothing behind. A mutant that hangs counts as caught. Survivors that cannot
change any result are listed with the reason in EXPLAINED.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

OWN_TEST = (
    "requantize gelu sigmoid packed_dot gemm_array gemm row_scale reciprocal_sqrt layernorm softmax selector "
    "compact multiply_accumulate operand ram scratchpad stream sequencer joint_read write_queue"
).split()
"""RTL units with a test file of their name."""

OTHER_TEST = {
    "norm_channel": "layernorm",
    "row_statistics": "layernorm",
    "row_sums": "layernorm",
    "exp_channel": "softmax",
    "divide": "row_scale",
    "package": "compact",
    "dsp48e2": "multiply_accumulate",
    "compact_plan": "compact",
    "row_router": "compact",
    "token_list": "compact",
    "drain": "gemm",
    "drain_element": "drain",
    "activation": "drain",
    "activation_element": "drain",
    "word_parts": "gemm",
    "fabric": "requantize",
    "word_walk": "drain",
    "dispatch": "sequencer",
    "burst": "axi_port",
    "transfer": "dma_read",
    "stripe": "dma_read",
}
"""RTL parts whose unit's test file must notice."""

TESTS_OF: dict[str, str] = {
    "quant/fixed.py": "tests/test_quant_fixed.py",
    "quant/approx.py": "tests/test_quant_approx.py",
    "quant/layers.py": "tests/test_quant_reference.py",
    **{f"hw/rtl/{unit}.py": f"tests/test_rtl_{unit}.py" for unit in OWN_TEST},
    **{f"hw/rtl/{part}.py": f"tests/test_rtl_{unit}.py" for part, unit in OTHER_TEST.items()},
}
"""Mutated file -> the test file that must notice."""

SWAPS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.FloorDiv: ("//", "*"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}

SHAPES = {"In", "Out", "Signal", "signed", "unsigned", "Requantize"}
"""Calls whose constant argument is a width."""

EXPLAINED: dict[tuple[str, str], str] = {
    (
        "quant/approx.py",
        "return xp.clip(round_half_up(power_q15, xp.clip(whole, 0, 16) + 8), 0, EXP_MAX)",
    ): "a shift of 23 and one of 24 both give 0",
    (
        "hw/rtl/sigmoid.py",
        "m.d.sync += o.eq(Mux(rounded >= 255, 255, rounded))",
    ): "255 saturates to itself",
    (
        "hw/rtl/selector.py",
        "WEIGHT_BITS = 16 + WEIGHT_FRACTION_BITS",
    ): "a wider register holds the same weight",
    (
        "hw/rtl/stream.py",
        "if self._i_width <= self._o_width:",
    ): "for equal widths, gathering one part and cutting into one part are the same",
    (
        "hw/rtl/row_statistics.py",
        'by_dim = Signal(VARIANCE_BITS - 1, name=f"by_dim_{lane}", reset_less=True)',
    ): "1024 channels of int16 stay below 2**50, so the register has bits to spare",
    (
        "hw/rtl/token_list.py",
        "self._depth = 2 << ceil_log2(config.max_tokens)  # so that no address is outside",
    ): "a deeper list holds the same tokens",
}
"""(file, mutated line stripped) -> why no test can notice."""

TIMEOUT_S = 240


@dataclass(frozen=True)
class Mutant:
    """One change: the text `before` at (line, column) of a file becomes `after`."""

    path: str
    line: int
    column: int
    before: str
    after: str

    def apply(self, source: str) -> tuple[str, str]:
        """Return the mutated source and the mutated line."""
        lines = source.splitlines(keepends=True)
        text = lines[self.line - 1]
        assert text[self.column :].startswith(self.before)
        lines[self.line - 1] = text[: self.column] + self.after + text[self.column + len(self.before) :]
        return "".join(lines), lines[self.line - 1].strip()


def mutants_of(path: str, source: str) -> list[Mutant]:
    """List every single-operator and single-constant change of one file."""
    lines, found = source.splitlines(), []

    def swap(left: ast.expr, operator: ast.AST, right: ast.expr) -> None:
        if type(operator) not in SWAPS or left.end_lineno != right.lineno:
            return
        before, after = SWAPS[type(operator)]
        match = re.compile(re.escape(before)).search(
            lines[right.lineno - 1], left.end_col_offset or 0, right.col_offset
        )
        if match:
            found.append(Mutant(path, right.lineno, match.start(), before, after))

    tree = ast.parse(source)
    widths = _widths_of(tree)
    # Annotations, imports and messages cannot change a result; neither can raising code, which other tests cover.
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.BinOp):
            swap(node.left, node.op, node.right)
        elif isinstance(node, ast.Compare):
            swap(node.left, node.ops[0], node.comparators[0])
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            text = lines[node.lineno - 1][node.col_offset : node.end_col_offset]
            # One bit more in a register changes nothing; one bit less must.
            changed = node.value - 1 if id(node) in widths else node.value + 1
            if changed > 0 or id(node) not in widths:
                found.append(Mutant(path, node.lineno, node.col_offset, text, str(changed)))
    return found


def _widths_of(tree: ast.AST) -> set[int]:
    """Return the ids of the constants that are bit widths or sizes of buffers."""
    widths = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SHAPES:
            widths |= {id(part) for argument in node.args for part in ast.walk(argument)}
        elif isinstance(node, ast.arguments):
            widths |= {id(default) for default in node.defaults}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id.endswith(("_BITS", "_WIDTH", "_DEPTH")):
                widths.add(id(node.value))
    return widths


def draw(seed: int, count: int) -> list[Mutant]:
    """Return `count` mutants, spread evenly over the files, in a seeded random order."""
    rng = random.Random(seed)
    pools = []
    for path in TESTS_OF:
        pool = mutants_of(path, (ROOT / path).read_text())
        rng.shuffle(pool)
        pools.append(pool)
    drawn: list[Mutant] = []
    while len(drawn) < count and any(pools):
        drawn += [pool.pop() for pool in pools if pool]
    return drawn[:count]


def passes(tree: Path, tests: str) -> bool:
    """Run one test file on the copy; a failure, a crash or a hang is False."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
    try:
        return (
            subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=TIMEOUT_S).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def is_caught(tree: Path, mutant: Mutant) -> bool:
    """Return whether the unit's tests fail on the mutated copy."""
    target = tree / mutant.path
    original = target.read_text()
    target.write_text(mutant.apply(original)[0])
    try:
        return not passes(tree, TESTS_OF[mutant.path])
    finally:
        target.write_text(original)


def main() -> int:
    """Draw, run and count the mutants; exit 1 below the required share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    mutants = draw(options.seed, options.count)
    survivors, explained = [], []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache"))
        for tests in sorted({TESTS_OF[mutant.path] for mutant in mutants}):
            if not passes(tree, tests):
                print(f"{tests} fails without any mutation: nothing to measure")
                return 1
        for number, mutant in enumerate(mutants, 1):
            _, text = mutant.apply((ROOT / mutant.path).read_text())
            caught = is_caught(tree, mutant)
            reason = EXPLAINED.get((mutant.path, text))
            verdict = "caught" if caught else "explained" if reason else "SURVIVED"
            print(f"{number:3d}/{len(mutants)} {verdict:9s} {mutant.path}:{mutant.line}  {text}", flush=True)
            if not caught:
                (explained if reason else survivors).append(f"{mutant.path}:{mutant.line}  {text}")
    caught_count = len(mutants) - len(survivors) - len(explained)
    share = caught_count / len(mutants)
    print(f"{caught_count} of {len(mutants)} mutants caught ({share:.0%}), {len(explained)} explained")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"mutants": len(mutants), "caught": caught_count, "explained": explained, "survivors": survivors}
        options.json.write_text(json.dumps(report, indent=2))
    return 0 if share >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
