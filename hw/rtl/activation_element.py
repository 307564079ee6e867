"""GELU or sigmoid of one value per cycle."""

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from hw.rtl.delay import delay
from hw.rtl.gelu import Gelu
from hw.rtl.requantize import Requantize
from hw.rtl.sigmoid import Sigmoid
from hw.timing import ACTIVATION_CYCLES


class ActivationElement(wiring.Component):
    """requantize8(gelu(x)) or sigmoid(x); a pipeline that never stops, latency LATENCY cycles for both.

    Members
    -------
    x : In(signed(16)) - Q5.10
    is_gelu : In(1); one, curve, mult : In(16), offset : In(signed(16)), shift : In(6) - for GELU; stable while results
        are in flight
    o : Out(8) - int8 or u8
    """

    LATENCY = ACTIVATION_CYCLES

    SIGNATURE = Signature(
        {
            "x": In(signed(16)),
            "is_gelu": In(1),
            "one": In(16),
            "curve": In(16),
            "offset": In(signed(16)),
            "mult": In(16),
            "shift": In(6),
            "o": Out(8),
        }
    )

    def __init__(self):
        super().__init__(self.SIGNATURE)

    def elaborate(self, platform):
        m = Module()
        x = delay(m, self.x, 1, name="x")
        m.submodules.gelu = gelu = Gelu()
        m.submodules.requantize = requantize = Requantize(8)
        m.submodules.sigmoid = sigmoid = Sigmoid()
        m.d.comb += [
            gelu.x.eq(x),
            gelu.one.eq(self.one),
            gelu.curve.eq(self.curve),
            gelu.offset.eq(self.offset),
            requantize.acc.eq(gelu.o),
            requantize.mult.eq(self.mult),
            requantize.shift.eq(self.shift),
            sigmoid.x.eq(x),
        ]
        waiting = Gelu.LATENCY + Requantize.LATENCY - Sigmoid.LATENCY
        m.d.comb += self.o.eq(Mux(self.is_gelu, requantize.o, delay(m, sigmoid.o, waiting, name="sigmoid")))
        return m
