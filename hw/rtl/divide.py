"""Serial divider: one or more quotient bits per cycle, all lanes in lock step."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

QUOTIENT_BITS = 16
DIVISOR_BITS = 17

DIVISION = data.StructLayout({"high": DIVISOR_BITS, "low": QUOTIENT_BITS, "divisor": DIVISOR_BITS})
"""One division: the dividend is high * 2**16 + low."""


class Divide(wiring.Component):
    """Restoring division with a 16-bit quotient, rounded down; 16 / bits_per_cycle cycles, one job at a time.

    quotient = (high * 2**16 + low) // divisor for high < divisor. With high == divisor and low == 0 it is 65535: the
    remainder never falls below the divisor, so every bit is one. That is the saturation reciprocal_sqrt asks for.

    Members
    -------
    i : In(stream of `lanes` DIVISION) - taken when idle.
    o : Out(stream of `lanes` u16) - held until it is taken.
    has_digits : Out(1) - in the next cycle the low bits_per_cycle bits of the payload of `o` are new, from the top on.
    """

    def __init__(self, lanes, bits_per_cycle=1):
        self._lanes, self._bits_per_cycle = lanes, bits_per_cycle
        super().__init__(
            {
                "i": In(stream.Signature(data.ArrayLayout(DIVISION, lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(QUOTIENT_BITS, lanes))),
                "has_digits": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        num_steps = QUOTIENT_BITS // self._bits_per_cycle
        steps_left = Signal(range(num_steps))
        do_load, do_step = Signal(), Signal()

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.i.ready.eq(1)
                m.d.comb += do_load.eq(self.i.valid)
                with m.If(do_load):
                    m.d.sync += steps_left.eq(num_steps - 1)
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
            m.d.comb += self.o.payload[lane].eq(quotient)
            with m.If(do_load):
                job = self.i.payload[lane]
                m.d.sync += [remainder.eq(job.high), quotient.eq(job.low), divisor.eq(job.divisor)]
            left, quotient_bits = remainder, quotient
            for bit in range(self._bits_per_cycle):
                partial = Signal(DIVISOR_BITS + 1, name=f"partial_{lane}_{bit}")
                difference = Signal(DIVISOR_BITS + 2, name=f"difference_{lane}_{bit}")
                rest = Signal(DIVISOR_BITS, name=f"rest_{lane}_{bit}")
                fits = ~difference[-1]
                m.d.comb += [
                    partial.eq(Cat(quotient[-1 - bit], left)),
                    difference.eq(partial - divisor),
                    rest.eq(Mux(fits, difference, partial)),
                ]
                left, quotient_bits = rest, Cat(fits, quotient_bits)
            with m.If(do_step):
                m.d.sync += [remainder.eq(left), quotient.eq(quotient_bits)]
        return m
