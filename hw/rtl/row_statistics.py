"""From the sums of a row to the factors that normalise it: the serial part of LayerNorm."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.reciprocal_sqrt import DIM_BITS, ROW_FACTORS, TOTAL_BITS, VARIANCE_BITS, ReciprocalSqrt

SQUARES_BITS = 41
"""sum(x**2) of 1024 channels of int16: 2**40 is reached."""

HALF_BITS = TOTAL_BITS // 2
"""|sum(x)| is multiplied by its two halves at the same time, bit by bit, while sum(x**2) is multiplied by D."""


def row_sums(lanes):
    """Return the layout of the sums of `lanes` rows: sum(x) and sum(x**2)."""
    return data.StructLayout(
        {
            "totals": data.ArrayLayout(signed(TOTAL_BITS), lanes),
            "squares": data.ArrayLayout(SQUARES_BITS, lanes),
        }
    )


class RowStatistics(wiring.Component):
    """Variance D*sum(x**2) - sum(x)**2 + eps and its reciprocal root; lanes in lock step.

    Three stages, variance, root and division, hold a row tile each: a job takes 40 cycles, a new one every 16.

    Members
    -------
    i : In(stream of row_sums) - taken when the variance of no other job is in work.
    o : Out(stream of `lanes` ROW_FACTORS) - held until it is taken.
    dim : In(u11), eps : In(u32) - stable while jobs are in flight.
    """

    JOBS = 3

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(row_sums(lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(ROW_FACTORS, lanes))),
                "dim": In(DIM_BITS),
                "eps": In(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reciprocal = reciprocal = ReciprocalSqrt(self._lanes)
        steps_left = Signal(range(HALF_BITS))
        dim_bits = Signal(HALF_BITS, reset_less=True)
        do_load, do_step, do_combine = Signal(), Signal(), Signal()

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += [self.i.ready.eq(1), do_load.eq(self.i.valid)]
                with m.If(do_load):
                    m.d.sync += [steps_left.eq(HALF_BITS - 1), dim_bits.eq(self.dim)]
                    m.next = "Multiply"
            with m.State("Multiply"):
                m.d.comb += do_step.eq(1)
                m.d.sync += [steps_left.eq(steps_left - 1), dim_bits.eq(dim_bits << 1)]
                with m.If(steps_left == 0):
                    m.next = "Combine"
            with m.State("Combine"):
                m.d.comb += do_combine.eq(1)
                m.next = "Offer"
            with m.State("Offer"):
                m.d.comb += reciprocal.i.valid.eq(1)
                with m.If(reciprocal.i.ready):
                    m.next = "Idle"

        for lane in range(self._lanes):
            total = Signal(signed(TOTAL_BITS), name=f"total_{lane}", reset_less=True)
            squares = Signal(SQUARES_BITS, name=f"squares_{lane}", reset_less=True)
            magnitude = Signal(TOTAL_BITS, name=f"magnitude_{lane}", reset_less=True)
            low_bits = Signal(HALF_BITS, name=f"low_bits_{lane}", reset_less=True)
            high_bits = Signal(HALF_BITS, name=f"high_bits_{lane}", reset_less=True)
            by_dim = Signal(VARIANCE_BITS, name=f"by_dim_{lane}", reset_less=True)
            by_low = Signal(TOTAL_BITS + HALF_BITS, name=f"by_low_{lane}", reset_less=True)
            by_high = Signal(TOTAL_BITS + HALF_BITS, name=f"by_high_{lane}", reset_less=True)
            total_squared = Signal(2 * TOTAL_BITS, name=f"total_squared_{lane}", reset_less=True)
            sums = self.i.payload
            absolute = Signal(TOTAL_BITS, name=f"absolute_{lane}")
            m.d.comb += absolute.eq(abs(sums.totals[lane]))
            with m.If(do_load):
                m.d.sync += [
                    total.eq(sums.totals[lane]),
                    squares.eq(sums.squares[lane]),
                    magnitude.eq(absolute),
                    low_bits.eq(absolute[:HALF_BITS]),
                    high_bits.eq(absolute[HALF_BITS:]),
                    by_dim.eq(0),
                    by_low.eq(0),
                    by_high.eq(0),
                ]
            with m.If(do_step):
                m.d.sync += [
                    low_bits.eq(low_bits << 1),
                    high_bits.eq(high_bits << 1),
                    by_dim.eq((by_dim << 1) + Mux(dim_bits[-1], squares, 0)),
                    by_low.eq((by_low << 1) + Mux(low_bits[-1], magnitude, 0)),
                    by_high.eq((by_high << 1) + Mux(high_bits[-1], magnitude, 0)),
                ]
            with m.If(do_combine):
                m.d.sync += [by_dim.eq(by_dim + self.eps), total_squared.eq((by_high << HALF_BITS) + by_low)]
            m.d.comb += [
                reciprocal.i.payload[lane].variance.eq(by_dim - total_squared),
                reciprocal.i.payload[lane].total.eq(total),
            ]
        m.d.comb += [
            reciprocal.dim.eq(self.dim),
            self.o.payload.eq(reciprocal.o.payload),
            self.o.valid.eq(reciprocal.o.valid),
            reciprocal.o.ready.eq(self.o.ready),
        ]
        return m
