"""Counters of why units do not go on: hw.regmap.STALLS."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa import Unit
from hw.regmap import STALLS, Stall, stall_register


class StallCounters(wiring.Component):
    """One 32-bit counter for each stall of each unit.

    What is counted is registered first, because it comes from ports all over the core: a count is a cycle late.

    Members
    -------
    clear : In(1) - a run starts;  is_running : In(1) - count
    reasons : In(one bit a counter, in the order of STALLS) - the unit is held up so in this cycle
    one Out(32) for each counter, named as its register in lower case
    """

    def __init__(self):
        self.names = [stall_register(unit, stall).lower() for unit, stalls in STALLS.items() for stall in stalls]
        super().__init__(
            {
                "clear": In(1),
                "is_running": In(1),
                "reasons": In(len(self.names)),
                **{name: Out(32) for name in self.names},
            }
        )

    def elaborate(self, platform):
        m = Module()
        seen = Signal(len(self.names))
        m.d.sync += seen.eq(self.reasons)
        for index, name in enumerate(self.names):
            counter = getattr(self, name)
            with m.If(self.clear):
                m.d.sync += counter.eq(0)
            with m.Elif(self.is_running):
                m.d.sync += counter.eq(counter + seen[index])
        return m


def is_refused(port):
    """Return whether a memory port's request must wait for other clients of the memory."""
    return port.request.valid & ~port.request.ready


def stall_reasons(units, busy, awaited):
    """Return the reasons for StallCounters: units by Unit, busy and awaited as of hw.rtl.sequencer.Sequencer."""
    load, operand, gemm, vector, store = (units[unit] for unit in Unit)
    has_beat = Cat(beats.valid for beats in load.beats).any()
    store_reads = Cat(port.request.valid for port in (store.act, store.wide, store.token)).any()
    reasons = {
        (Unit.LOAD, Stall.MEMORY): busy[Unit.LOAD] & ~has_beat,
        (Unit.OPERAND, Stall.OPERAND): is_refused(operand.act),
        (Unit.OPERAND, Stall.DRAIN): is_refused(operand.weight),
        (Unit.GEMM, Stall.OPERAND): _any_refused(gemm.act, gemm.weight),
        (Unit.GEMM, Stall.WEIGHT): _waits_for(awaited[Unit.GEMM], Unit.LOAD, Unit.OPERAND),
        (Unit.GEMM, Stall.DRAIN): gemm.is_held_back,
        (Unit.VECTOR, Stall.OPERAND): _any_refused(vector.act_read, vector.wide_read, vector.param),
        (Unit.VECTOR, Stall.WEIGHT): _waits_for(awaited[Unit.VECTOR], Unit.LOAD),
        (Unit.VECTOR, Stall.DRAIN): _any_refused(vector.act_write, vector.wide_write, vector.row_scale),
        (Unit.STORE, Stall.OPERAND): _any_refused(store.act, store.wide, store.token),
        (Unit.STORE, Stall.MEMORY): busy[Unit.STORE] & ~store_reads,
    }
    return Cat(reasons[unit, stall] for unit, stalls in STALLS.items() for stall in stalls)


def _any_refused(*ports):
    return Cat(is_refused(port) for port in ports).any()


def _waits_for(awaited, *units):
    return Cat(awaited[unit] for unit in units).any()
