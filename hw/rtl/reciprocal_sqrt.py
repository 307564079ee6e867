"""Reciprocal square root of a variance, times the two constants of its row: serial, root and division overlapped."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.rtl.divide import Divide
from hw.rtl.fabric import fabric_product

DIM_BITS = 11
TOTAL_BITS = 26
"""sum(x) of 1024 channels of int16: -2**25 is reached, 2**25 is not."""
VARIANCE_BITS = 53
ALIGNED_BITS = 54
"""The variance moves left by an even number of places until one of the two top bits is set."""
NORMALISE_STEPS = (32, 16, 8, 4, 2)
ROOT_BITS = 16
MULT_BITS = 16
DIGITS = 2
"""Bits of the root, and of the quotient, that are found in a cycle."""

RECIPROCAL_HIGH = 1 << 15
"""2**31, the dividend of the golden, in units of the divider's high part."""

ROW_MOMENTS = data.StructLayout({"variance": VARIANCE_BITS, "total": signed(TOTAL_BITS)})
"""Variance, eps included, and sum(x) of a row."""

ROW_FACTORS = data.StructLayout(
    {"factor": DIM_BITS - 1 + MULT_BITS, "offset": signed(TOTAL_BITS + MULT_BITS), "shift": 6}
)
"""What normalises a row: (D*x - sum(x)) * mult = x * factor - offset; the two end in a shift. D is at most 1024."""


class ReciprocalSqrt(wiring.Component):
    """Variance 1..2**53-1 and sum -> factors of 2**10 / sqrt(variance); a job takes 24 cycles, a new one every 15.

    Root and quotient grow by two bits a cycle.

    Golden: quant.approx.reciprocal_sqrt. It normalises to 31 or 32 bits by shifting right or left; the top 32 bits of
    the left-aligned variance are the same number, and a left shift of L there means shift = 32 - L / 2. The products
    with mult grow with each bit of it that the division finds.

    Members
    -------
    i : In(stream of `lanes` ROW_MOMENTS) - taken when no root is in work.
    o : Out(stream of `lanes` ROW_FACTORS) - held until it is taken.
    dim : In(u11), 1..1024 - D; stable while jobs are in flight.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(data.ArrayLayout(ROW_MOMENTS, lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(ROW_FACTORS, lanes))),
                "dim": In(DIM_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.divide = divide = Divide(self._lanes, DIGITS)
        step = Signal(range(ROOT_BITS // DIGITS))
        do_load, do_normalise, do_root, do_divide = Signal(), Signal(), Signal(), Signal()

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
                with m.If(step == ROOT_BITS // DIGITS - 1):
                    m.next = "Divide"
            with m.State("Divide"):
                m.d.comb += divide.i.valid.eq(1)
                m.d.comb += do_divide.eq(divide.i.ready)
                with m.If(do_divide):
                    m.next = "Idle"
        # New bits of the quotients are multiplied in the cycle after they are found.
        has_digits = delay(m, divide.has_digits, 1, name="has_digits", reset_less=False)
        m.d.comb += [
            self.o.valid.eq(divide.o.valid & ~has_digits),
            divide.o.ready.eq(self.o.ready & ~has_digits),
        ]

        for lane in range(self._lanes):
            aligned = Signal(ALIGNED_BITS, name=f"aligned_{lane}", reset_less=True)
            shift = Signal(6, name=f"shift_{lane}", reset_less=True)
            total = Signal(signed(TOTAL_BITS), name=f"total_{lane}", reset_less=True)
            with m.If(do_load):
                job = self.i.payload[lane]
                m.d.sync += [aligned.eq(job.variance), total.eq(job.total), shift.eq(32)]
            with m.If(do_normalise), m.Switch(step):
                for index, places in enumerate(NORMALISE_STEPS):
                    with m.Case(index), m.If(aligned[ALIGNED_BITS - places :] == 0):
                        m.d.sync += aligned.eq(Cat(Const(0, places), aligned))
                        m.d.sync += shift.eq(shift - places // 2)

            # Digit by digit: two radicand bits in, one root bit out; the remainder never exceeds twice the root.
            root = Signal(ROOT_BITS, name=f"root_{lane}", reset_less=True)
            remainder = Signal(ROOT_BITS + 1, name=f"remainder_{lane}", reset_less=True)
            left, found = remainder, root
            for digit in range(DIGITS):
                partial = Signal(ROOT_BITS + 3, name=f"partial_{lane}_{digit}")
                trial = Signal(ROOT_BITS + 2, name=f"trial_{lane}_{digit}")
                difference = Signal(ROOT_BITS + 4, name=f"difference_{lane}_{digit}")
                rest = Signal(ROOT_BITS + 1, name=f"rest_{lane}_{digit}")
                fits = ~difference[-1]
                top = ALIGNED_BITS - 2 * digit
                m.d.comb += [
                    partial.eq(Cat(aligned[top - 2 : top], left)),
                    trial.eq(Cat(Const(1, 2), found)),
                    difference.eq(partial - trial),
                    rest.eq(Mux(fits, difference, partial)),
                ]
                left, found = rest, Cat(fits, found)[:ROOT_BITS]
            with m.If(do_load):
                m.d.sync += [root.eq(0), remainder.eq(0)]
            with m.If(do_root):
                m.d.sync += [
                    aligned.eq(Cat(Const(0, 2 * DIGITS), aligned)),
                    remainder.eq(left),
                    root.eq(found),
                ]

            division, factors = divide.i.payload[lane], Signal(ROW_FACTORS, name=f"factors_{lane}", reset_less=True)
            divided_total = Signal(signed(TOTAL_BITS), name=f"divided_total_{lane}", reset_less=True)
            digits = divide.o.payload[lane][:DIGITS]
            m.d.comb += [
                division.high.eq(RECIPROCAL_HIGH),
                division.divisor.eq(root),
                self.o.payload[lane].eq(factors),
            ]
            with m.If(do_divide):
                m.d.sync += [factors.factor.eq(0), factors.offset.eq(0), factors.shift.eq(shift)]
                m.d.sync += divided_total.eq(total)
            with m.If(has_digits):
                m.d.sync += [
                    factors.factor.eq((factors.factor << DIGITS) + fabric_product(self.dim, digits)),
                    factors.offset.eq((factors.offset << DIGITS) + fabric_product(divided_total, digits)),
                ]
        return m
