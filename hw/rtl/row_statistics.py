"""From the sums of a row to its requantize constants: the serial part of LayerNorm."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.ports import ROW_SCALE_ENTRY
from hw.rtl.reciprocal_sqrt import VARIANCE_BITS, ReciprocalSqrt

DIM_BITS = 11
TOTAL_BITS = 26
"""sum(x) of 1024 channels of int16: -2**25 is reached, 2**25 is not."""
SQUARES_BITS = 41
"""sum(x**2) of 1024 channels of int16: 2**40 is reached."""


def row_sums(lanes):
    """Return the layout of the sums of `lanes` rows: sum(x) and sum(x**2)."""
    return data.StructLayout(
        {
            "totals": data.ArrayLayout(signed(TOTAL_BITS), lanes),
            "squares": data.ArrayLayout(SQUARES_BITS, lanes),
        }
    )


def row_constants(lanes):
    """Return the layout of what normalises `lanes` rows: sum(x) and the scale of D*x - sum(x)."""
    return data.StructLayout(
        {
            "totals": data.ArrayLayout(signed(TOTAL_BITS), lanes),
            "scales": data.ArrayLayout(ROW_SCALE_ENTRY, lanes),
        }
    )


class RowStatistics(wiring.Component):
    """Variance D*sum(x**2) - sum(x)**2 + eps and its reciprocal root; 66 cycles, one job at a time, lanes in lock step.

    Both products are bit-serial from the top, in one register: it doubles, adds sum(x**2) for a one in D and subtracts
    |sum(x)| for a one in |sum(x)|.

    Members
    -------
    i : In(stream of row_sums) - taken when idle;  o : Out(stream of row_constants) - held until it is taken.
    dim : In(u11), eps : In(u32) - stable while it runs.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(row_sums(lanes))),
                "o": Out(stream.Signature(row_constants(lanes))),
                "dim": In(DIM_BITS),
                "eps": In(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reciprocal = reciprocal = ReciprocalSqrt(self._lanes)
        steps_left = Signal(range(TOTAL_BITS + 1))
        dim_bits = Signal(TOTAL_BITS, reset_less=True)
        do_load, do_step = Signal(), Signal()

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += [self.i.ready.eq(1), do_load.eq(self.i.valid)]
                with m.If(do_load):
                    m.d.sync += [steps_left.eq(TOTAL_BITS - 1), dim_bits.eq(self.dim)]
                    m.next = "Square"
            with m.State("Square"):
                m.d.comb += do_step.eq(1)
                m.d.sync += [steps_left.eq(steps_left - 1), dim_bits.eq(dim_bits << 1)]
                with m.If(steps_left == 0):
                    m.next = "Root"
            with m.State("Root"):
                m.d.comb += reciprocal.i.valid.eq(1)
                with m.If(reciprocal.i.ready):
                    m.next = "Done"
            with m.State("Done"):
                m.d.comb += self.o.valid.eq(reciprocal.o.valid)
                m.d.comb += reciprocal.o.ready.eq(self.o.ready)
                with m.If(reciprocal.o.valid & self.o.ready):
                    m.next = "Idle"

        for lane in range(self._lanes):
            total = Signal(signed(TOTAL_BITS), name=f"total_{lane}", reset_less=True)
            squares = Signal(SQUARES_BITS, name=f"squares_{lane}", reset_less=True)
            magnitude = Signal(TOTAL_BITS, name=f"magnitude_{lane}", reset_less=True)
            magnitude_bits = Signal(TOTAL_BITS, name=f"magnitude_bits_{lane}", reset_less=True)
            # The leading digits alone may give a negative difference.
            difference = Signal(signed(VARIANCE_BITS + 1), name=f"difference_{lane}", reset_less=True)
            sums = self.i.payload
            absolute = Mux(sums.totals[lane] < 0, -sums.totals[lane], sums.totals[lane])
            with m.If(do_load):
                m.d.sync += [
                    total.eq(sums.totals[lane]),
                    squares.eq(sums.squares[lane]),
                    magnitude.eq(absolute),
                    magnitude_bits.eq(absolute),
                    difference.eq(0),
                ]
            with m.If(do_step):
                added = Mux(dim_bits[-1], squares, 0)
                subtracted = Mux(magnitude_bits[-1], magnitude, 0)
                m.d.sync += [
                    magnitude_bits.eq(magnitude_bits << 1),
                    difference.eq((difference << 1) + added - subtracted),
                ]
            m.d.comb += [
                reciprocal.i.payload[lane].eq(difference + self.eps),
                self.o.payload.totals[lane].eq(total),
            ]
        m.d.comb += self.o.payload.scales.eq(reciprocal.o.payload)
        return m
