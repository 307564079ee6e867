"""Requantize constants of a row from its sum: the serial twin of quant.approx.row_scale."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.divide import Divide
from hw.rtl.ports import ROW_SCALE_ENTRY

SUM_BITS = 17
NORMALISE_STEPS = (16, 8, 4, 2, 1)
QUOTIENT_BITS_PER_CYCLE = 2
"""A softmax row tile of few tokens would wait for a slower division."""


def row_scale_job(lanes):
    """Return the layout of one job: `lanes` row sums and the constants that they share."""
    return data.StructLayout({"sums": data.ArrayLayout(SUM_BITS, lanes), "mult": 16, "shift": 6})


class RowScale(wiring.Component):
    """(sums, mult, shift) -> requantize constants of each lane; 14 cycles, one job at a time.

    Golden: quant.approx.row_scale. mult is in 2**15..2**16-1 and shift in 0..31.

    Members
    -------
    i : In(stream of row_scale_job(lanes)) - taken when idle.
    o : Out(stream of `lanes` ROW_SCALE_ENTRY) - held until it is taken.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(row_scale_job(lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(ROW_SCALE_ENTRY, lanes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.divide = divide = Divide(self._lanes, QUOTIENT_BITS_PER_CYCLE)
        mult, shift = Signal(16, reset_less=True), Signal(6, reset_less=True)
        step = Signal(range(len(NORMALISE_STEPS)))
        do_load, do_step = Signal(), Signal()

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.i.ready.eq(1)
                m.d.comb += do_load.eq(self.i.valid)
                with m.If(do_load):
                    m.d.sync += [mult.eq(self.i.payload.mult), shift.eq(self.i.payload.shift), step.eq(0)]
                    m.next = "Normalise"
            with m.State("Normalise"):
                m.d.comb += do_step.eq(1)
                m.d.sync += step.eq(step + 1)
                with m.If(step == len(NORMALISE_STEPS) - 1):
                    m.next = "Divide"
            with m.State("Divide"):
                m.d.comb += divide.i.valid.eq(1)
                with m.If(divide.i.ready):
                    m.next = "Done"
            with m.State("Done"):
                m.d.comb += self.o.valid.eq(divide.o.valid)
                m.d.comb += divide.o.ready.eq(self.o.ready)
                with m.If(divide.o.valid & self.o.ready):
                    m.next = "Idle"

        for lane in range(self._lanes):
            norm = Signal(SUM_BITS, name=f"norm_{lane}", reset_less=True)
            lead = Signal(5, name=f"lead_{lane}", reset_less=True)
            with m.If(do_load):
                row_sum = self.i.payload.sums[lane]
                m.d.sync += [norm.eq(Mux(row_sum == 0, 1, row_sum)), lead.eq(0)]
            with m.If(do_step), m.Switch(step):
                for index, places in enumerate(NORMALISE_STEPS):
                    with m.Case(index), m.If(norm[SUM_BITS - places :] == 0):
                        m.d.sync += norm.eq(Cat(Const(0, places), norm))
                        m.d.sync += lead.eq(lead + places)
            job, entry = divide.i.payload[lane], self.o.payload[lane]
            m.d.comb += [
                job.high.eq(mult),
                job.divisor.eq(norm),
                entry.mult.eq(divide.o.payload[lane]),
                entry.shift.eq(shift + 16 - lead),
            ]
        return m
