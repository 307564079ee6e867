"""Rows that a command covers: a run of row tiles, cut off at the live tokens."""

from amaranth.hdl import Mux, Signal


def covered_rows(m, command, live, lanes):
    """Return a Signal of hw.isa.Descriptor.covered_rows for a descriptor and the live count of its picture."""
    first, left, rows = Signal(16), Signal(16), Signal(16)
    m.d.comb += [
        first.eq(command.first_tile * lanes),
        left.eq(Mux(live > first, live - first, 0)),
        rows.eq(Mux((command.rows == 0) | (command.rows > left), left, command.rows)),
    ]
    return rows
