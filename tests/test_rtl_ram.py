"""Block RAM, in place and as ram.v, against a list of words.

Testpoints: random reads and writes with every mix of enables, several widths and depths that are no power of two; a
read in the cycle of a write to the same word gives the old word.
"""

import subprocess
from random import Random

import pytest
from rtl_streams import run

from hw.rtl.ram import RAM_VERILOG, Ram

SHAPES = [(24, 16, 2), (16, 8, 1), (5, 32, 8)]
CYCLES = 200

MAIN = """
#include "Vram.h"
#include <cstdio>
int main() {
    Vram ram;
    unsigned read, write, enable, data;
    while (scanf("%u %u %u %u", &read, &write, &enable, &data) == 4) {
        ram.read_address = read;
        ram.write_address = write;
        ram.write_enable = enable;
        ram.write_data = data;
        ram.clk = 0;
        ram.eval();
        ram.clk = 1;
        ram.eval();
        printf("%u\\n", static_cast<unsigned>(ram.read_data));
    }
}
"""


def traffic(depth, width, enables):
    """Return [(read address, write address, enable, data)] that first fills the RAM, and what each cycle reads."""
    random, words, steps, expected = Random(depth), [0] * depth, [], []
    for cycle in range(CYCLES):
        write, enable, data = random.randrange(depth), random.getrandbits(enables), random.getrandbits(width)
        if cycle < depth:
            write, enable = cycle, (1 << enables) - 1
        read = random.choice([write, random.randrange(depth)])
        steps.append((read, write, enable, data))
        expected.append(words[read] if cycle > depth else None)
        part = width // enables
        mask = sum(((1 << part) - 1) << part * index for index in range(enables) if enable >> index & 1)
        words[write] = words[write] & ~mask | data & mask
    return steps, expected


def compare(results, expected):
    assert len(results) == len(expected)
    assert all(result == word for result, word in zip(results, expected, strict=True) if word is not None)


@pytest.mark.parametrize("depth, width, enables", SHAPES)
def test_in_place(depth, width, enables):
    ram, results = Ram(depth, width, enables), []
    steps, expected = traffic(depth, width, enables)

    async def testbench(ctx):
        ports = (ram.read_address, ram.write_address, ram.write_enable, ram.write_data)
        for step in steps:
            for port, value in zip(ports, step, strict=True):
                ctx.set(port, value)
            await ctx.tick()
            results.append(ctx.get(ram.read_data))

    run(ram, testbench)
    compare(results, expected)


@pytest.mark.verilator
@pytest.mark.parametrize("depth, width, enables", SHAPES)
def test_verilog(depth, width, enables, tmp_path):
    from sim.verilator import environment

    steps, expected = traffic(depth, width, enables)
    (tmp_path / "main.cpp").write_text(MAIN)
    parameters = {"DEPTH": depth, "WIDTH": width, "ENABLES": enables, "ADDRESS_WIDTH": (depth - 1).bit_length()}
    command = ["verilator", "--cc", "--exe", "--build", "--prefix", "Vram", "-Wno-lint", "-Mdir", str(tmp_path)]
    command += [*(f"-G{name}={value}" for name, value in parameters.items()), str(RAM_VERILOG), "main.cpp"]
    subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, check=True)
    vectors = "".join(" ".join(map(str, step)) + "\n" for step in steps)
    output = subprocess.run([tmp_path / "Vram"], input=vectors, capture_output=True, text=True, check=True).stdout
    compare([int(line) for line in output.splitlines()], expected)
