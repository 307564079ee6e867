"""Per-unit side of the sequencer: queue, wait counts, and what the unit is doing."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.isa import Unit
from hw.rtl.ports import descriptor_layout
from hw.rtl.stream import Fifo
from hw.timing import MAX_RUNNING, QUEUE_DEPTH

COUNT_WIDTH = 16
"""Completed descriptors are counted modulo 2**16, as the wait fields are."""

job_layout = data.StructLayout({"descriptor": descriptor_layout, "index": 32})
"""A descriptor and its place in the program."""

counts_layout = data.ArrayLayout(COUNT_WIDTH, len(Unit))
"""Completed descriptors of each unit, by Unit."""


class Dispatcher(wiring.Component):
    """Queue of one unit: its head is issued when every unit has completed as many descriptors as the head waits for.

    `count >= wait` compares modulo 2**16: it holds if the difference is below 2**15. The comparison is registered, so
    a descriptor is offered two cycles after the completion that it waits for. Units complete descriptors in order.

    Members
    -------
    i : In(stream of job_layout);  command : Out(stream of descriptor_layout)
    counts : In(counts_layout);  done : In(1) - the unit completed a descriptor;  count : Out(COUNT_WIDTH) - so many.
    busy : Out(1) - the unit has a descriptor, or up to MAX_RUNNING;  waiting : Out(1) - it has none, and the head waits
        for another unit.
    awaited : Out(one bit per unit) - the units that it waits for while waiting.
    pending : Out(1), index : Out(32) - whether a descriptor is unfinished, and the index of the oldest one.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(job_layout)),
                "command": Out(stream.Signature(descriptor_layout)),
                "counts": In(counts_layout),
                "done": In(1),
                "count": Out(COUNT_WIDTH),
                "busy": Out(1),
                "waiting": Out(1),
                "awaited": Out(len(Unit)),
                "pending": Out(1),
                "index": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Fifo(job_layout, QUEUE_DEPTH)
        connect(m, flipped(self.i), queue.i)
        head = queue.o.payload
        waits = [head.descriptor[f"wait_{unit.name.lower()}"] for unit in Unit]
        is_reached = Cat(~(count - wait)[COUNT_WIDTH - 1] for count, wait in zip(self.counts, waits, strict=True))
        is_due = is_reached.all()
        is_released = Signal()
        m.submodules.running = running = Fifo(32, MAX_RUNNING)  # the indices of what the unit has
        do_issue = self.command.valid & self.command.ready
        m.d.comb += [
            self.command.payload.eq(head.descriptor),
            self.command.valid.eq(is_released),
            queue.o.ready.eq(do_issue),
            self.waiting.eq(queue.o.valid & ~is_due & ~self.busy),
            self.awaited.eq(~is_reached & self.waiting.replicate(len(Unit))),
            self.pending.eq(self.busy | queue.o.valid),
            self.index.eq(Mux(self.busy, running.o.payload, head.index)),
            self.busy.eq(running.o.valid),
            running.i.payload.eq(head.index),
            running.i.valid.eq(do_issue),
            running.o.ready.eq(self.done),
        ]
        m.d.sync += is_released.eq(queue.o.valid & is_due & ~do_issue)
        m.d.sync += self.count.eq(self.count + self.done)
        return m
