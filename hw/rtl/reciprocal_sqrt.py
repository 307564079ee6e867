"""Reciprocal square root of a variance: the serial twin of quant.approx.reciprocal_sqrt."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.divide import Divide
from hw.rtl.ports import ROW_SCALE_ENTRY

VARIANCE_BITS = 53
ALIGNED_BITS = 54
"""The variance moves left by an even number of places until one of the two top bits is set."""
NORMALISE_STEPS = (32, 16, 8, 4, 2)
ROOT_BITS = 16
RECIPROCAL_HIGH = 1 << 15
"""2**31, the dividend of the golden, in units of the divider's high part."""


class ReciprocalSqrt(wiring.Component):
    """Variance 1..2**53-1 -> requantize constants of 2**10 / sqrt(variance); 38 cycles, one job at a time.

    Golden: quant.approx.reciprocal_sqrt. It normalises to 31 or 32 bits by shifting right or left; the top 32 bits of
    the left-aligned variance are the same number, and a left shift of L there means shift = 32 - L / 2.

    Members
    -------
    i : In(stream of `lanes` u53) - taken when idle.
    o : Out(stream of `lanes` ROW_SCALE_ENTRY) - held until it is taken.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(data.ArrayLayout(VARIANCE_BITS, lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(ROW_SCALE_ENTRY, lanes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.divide = divide = Divide(self._lanes)
        step = Signal(range(ROOT_BITS))
        do_load, do_normalise, do_root = Signal(), Signal(), Signal()

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.i.ready.eq(1)
                m.d.comb += do_load.eq(self.i.valid)
                with m.If(do_load):
                    m.d.sync += step.eq(0)
                    m.next = "Normalise"
            with m.State("Normalise"):
                m.d.comb += do_normalise.eq(1)
                m.d.sync += step.eq(step + 1)
                with m.If(step == len(NORMALISE_STEPS) - 1):
                    m.d.sync += step.eq(0)
                    m.next = "Root"
            with m.State("Root"):
                m.d.comb += do_root.eq(1)
                m.d.sync += step.eq(step + 1)
                with m.If(step == ROOT_BITS - 1):
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
            aligned = Signal(ALIGNED_BITS, name=f"aligned_{lane}", reset_less=True)
            shift = Signal(6, name=f"shift_{lane}", reset_less=True)
            with m.If(do_load):
                m.d.sync += [aligned.eq(self.i.payload[lane]), shift.eq(32)]
            with m.If(do_normalise), m.Switch(step):
                for index, places in enumerate(NORMALISE_STEPS):
                    with m.Case(index), m.If(aligned[ALIGNED_BITS - places :] == 0):
                        m.d.sync += aligned.eq(Cat(Const(0, places), aligned))
                        m.d.sync += shift.eq(shift - places // 2)

            # Digit by digit: two radicand bits in, one root bit out; the remainder never exceeds twice the root.
            root = Signal(ROOT_BITS, name=f"root_{lane}", reset_less=True)
            remainder = Signal(ROOT_BITS + 1, name=f"remainder_{lane}", reset_less=True)
            partial = Signal(ROOT_BITS + 3, name=f"partial_{lane}")
            trial = Signal(ROOT_BITS + 2, name=f"trial_{lane}")
            fits = Signal(name=f"fits_{lane}")
            m.d.comb += [
                partial.eq(Cat(aligned[-2:], remainder)),
                trial.eq(Cat(Const(1, 2), root)),
                fits.eq(partial >= trial),
            ]
            with m.If(do_load):
                m.d.sync += [root.eq(0), remainder.eq(0)]
            with m.If(do_root):
                m.d.sync += [
                    aligned.eq(Cat(Const(0, 2), aligned)),
                    remainder.eq(Mux(fits, partial - trial, partial)),
                    root.eq(Cat(fits, root)),
                ]
            job, entry = divide.i.payload[lane], self.o.payload[lane]
            m.d.comb += [
                job.high.eq(RECIPROCAL_HIGH),
                job.divisor.eq(root),
                entry.mult.eq(divide.o.payload[lane]),
                entry.shift.eq(shift),
            ]
        return m
