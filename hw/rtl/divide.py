"""Serial divider: one quotient bit per cycle, all lanes in lock step."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

QUOTIENT_BITS = 16
DIVISOR_BITS = 17

DIVISION = data.StructLayout({"high": DIVISOR_BITS, "low": QUOTIENT_BITS, "divisor": DIVISOR_BITS})
"""One division: the dividend is high * 2**16 + low."""


class Divide(wiring.Component):
    """Restoring division with a 16-bit quotient, rounded down; 16 cycles, one job at a time.

    quotient = (high * 2**16 + low) // divisor for high < divisor. With high == divisor and low == 0 it is 65535: the
    remainder never falls below the divisor, so every bit is one. That is the saturation reciprocal_sqrt asks for.

    Members
    -------
    i : In(stream of `lanes` DIVISION) - taken when idle.
    o : Out(stream of `lanes` u16) - held until it is taken.
    has_digits : Out(1), digits : Out(lanes) - the quotients bit by bit, from the top.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(data.ArrayLayout(DIVISION, lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(QUOTIENT_BITS, lanes))),
                "has_digits": Out(1),
                "digits": Out(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        steps_left = Signal(range(QUOTIENT_BITS))
        do_load, do_step = Signal(), Signal()

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.i.ready.eq(1)
                m.d.comb += do_load.eq(self.i.valid)
                with m.If(do_load):
                    m.d.sync += steps_left.eq(QUOTIENT_BITS - 1)
                    m.next = "Divide"
            with m.State("Divide"):
                m.d.comb += [do_step.eq(1), self.has_digits.eq(1)]
                m.d.sync += steps_left.eq(steps_left - 1)
                with m.If(steps_left == 0):
                    m.next = "Done"
            with m.State("Done"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "Idle"

        for lane in range(self._lanes):
            remainder = Signal(DIVISOR_BITS, name=f"remainder_{lane}", reset_less=True)
            divisor = Signal(DIVISOR_BITS, name=f"divisor_{lane}", reset_less=True)
            # Dividend bits leave at the top as quotient bits enter at the bottom.
            quotient = Signal(QUOTIENT_BITS, name=f"quotient_{lane}", reset_less=True)
            partial = Signal(DIVISOR_BITS + 1, name=f"partial_{lane}")
            fits = Signal(name=f"fits_{lane}")
            m.d.comb += [
                partial.eq(Cat(quotient[-1], remainder)),
                fits.eq(partial >= divisor),
                self.digits[lane].eq(fits),
                self.o.payload[lane].eq(quotient),
            ]
            with m.If(do_load):
                job = self.i.payload[lane]
                m.d.sync += [remainder.eq(job.high), quotient.eq(job.low), divisor.eq(job.divisor)]
            with m.If(do_step):
                m.d.sync += remainder.eq(Mux(fits, partial - divisor, partial))
                m.d.sync += quotient.eq(Cat(fits, quotient[:-1]))
        return m
