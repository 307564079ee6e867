"""GELU and sigmoid of the GEMM drain's words, at a fraction of the drain's width."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.rtl.activation_element import ActivationElement
from hw.rtl.delay import delay
from hw.rtl.repeat import place
from hw.rtl.stream import Fifo
from hw.rtl.word_parts import Gather, select_part
from hw.timing import activation_width

QUEUE_WORDS = 16
"""Finished words, and those in the pipeline, which cannot stop: a place is reserved before a word enters."""


class Activation(wiring.Component):
    """Words of R x K values in Q5.10 to words of R x K bytes, activation_width channels of a lane per cycle.

    Members
    -------
    i : In(stream of R x K signed(16));  o : Out(stream of R x K bytes)
    is_gelu : In(1); one, curve, mult : In(16), offset : In(signed(16)), shift : In(6) - stable while words are in
        flight
    """

    def __init__(self, config: AccelConfig, element_module: str | None = None):
        """Take the name of a Verilog module generated separately from ActivationElement, or elaborate them here."""
        self._config, self._element_module = config, element_module
        self._width = activation_width(config)
        values = data.ArrayLayout(data.ArrayLayout(signed(16), config.depth), config.rows)
        super().__init__(
            {
                "i": In(stream.Signature(values)),
                "o": Out(stream.Signature(8 * config.act_bytes)),
                "is_gelu": In(1),
                "one": In(16),
                "curve": In(16),
                "offset": In(signed(16)),
                "mult": In(16),
                "shift": In(6),
            }
        )

    def elaborate(self, platform):
        m = Module()
        parts = self._config.depth // self._width
        m.submodules.queue = queue = Fifo(8 * self._config.act_bytes, QUEUE_WORDS)
        connect(m, queue.o, flipped(self.o))

        part = Signal(range(parts))
        reserved = Signal(range(QUEUE_WORDS + 1))
        take = Signal()
        do_leave = self.o.valid & self.o.ready
        m.d.comb += [
            take.eq(self.i.valid & ((part != 0) | (reserved != QUEUE_WORDS))),
            self.i.ready.eq(take & (part == parts - 1)),
        ]
        m.d.sync += reserved.eq(reserved + (take & (part == 0)) - do_leave)
        with m.If(take):
            m.d.sync += part.eq(part + 1)  # the number of parts is a power of two

        results = []
        for row in range(self._config.rows):
            for position, x in enumerate(select_part(self.i.payload[row], self._width, part)):
                element = place(m, f"element_{row}_{position}", ActivationElement, self._element_module)
                m.d.comb += [
                    element.x.eq(x),
                    element.is_gelu.eq(self.is_gelu),
                    element.one.eq(self.one),
                    element.curve.eq(self.curve),
                    element.offset.eq(self.offset),
                    element.mult.eq(self.mult),
                    element.shift.eq(self.shift),
                ]
                results.append(element.o)
        m.submodules.gather = gather = Gather(self._config.rows, self._config.depth, self._width, 8)
        m.d.comb += [
            gather.push.eq(delay(m, take, ActivationElement.LATENCY, name="push", reset_less=False)),
            gather.part.eq(Cat(results)),
            queue.i.valid.eq(gather.valid),
            queue.i.payload.eq(gather.word),
        ]
        return m
