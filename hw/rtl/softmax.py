"""SOFTMAX and UNIFORM engine: scores in WIDE to un-normalised exponentials in ACT and their row scales."""

from operator import add

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Opcode
from hw.rtl.address_walk import WALK_WIDTH, AddressWalk
from hw.rtl.delay import delay
from hw.rtl.exp_channel import ExpChannel
from hw.rtl.ports import ROW_SCALE_ENTRY, descriptor_layout
from hw.rtl.repeat import place
from hw.rtl.row_scale import SUM_BITS, RowScale, row_scale_job
from hw.rtl.tree import reduce_tree
from hw.rtl.write_queue import WriteQueue, walk_write_layout


class Softmax(wiring.Component):
    """SOFTMAX and UNIFORM. Golden: quant.approx.softmax_rows and row_scale.

    A row tile of W words takes 2*W cycles and about 5 more: the peak pass, then the exponential pass. The row scale of
    a tile is computed while the next tile is read. UNIFORM computes one row scale and writes it for every row tile.

    Members
    -------
    command : In(stream of descriptor_layout) - taken when idle;  done : Out(1) - after the last write.
    live : In - the live token count.
    wide_addresses : Out(address stream);  wide_words : In(word stream)
    act_writes, row_scale_writes : Out(streams of unchecked writes)
    """

    def __init__(self, config: AccelConfig, channel_module: str | None = None):
        """Take the name of a Verilog module generated separately from ExpChannel, or elaborate R * K channels."""
        self._config, self._channel_module = config, channel_module
        row_scale_width = ROW_SCALE_ENTRY.size * config.rows
        super().__init__(
            {
                "command": In(stream.Signature(descriptor_layout)),
                "done": Out(1),
                "live": In(range(config.max_tokens + 1)),
                "wide_addresses": Out(stream.Signature(WALK_WIDTH)),
                "wide_words": In(stream.Signature(8 * config.wide_bytes)),
                "act_writes": Out(stream.Signature(walk_write_layout(8 * config.act_bytes, config.rows))),
                "row_scale_writes": Out(stream.Signature(walk_write_layout(row_scale_width, config.rows))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, depth = self._config.rows, self._config.depth
        m.submodules.queue = queue = WriteQueue(8 * self._config.act_bytes, lanes)
        m.submodules.row_scale = row_scale = RowScale(lanes)
        connect(m, queue.writes, flipped(self.act_writes))

        # Command
        command = self.command.payload
        is_uniform = command.opcode == Opcode.UNIFORM
        do_start = self.command.valid & self.command.ready
        tiles, tiles_left = Signal(9), Signal(9, reset_less=True)
        writes_left = Signal(9, reset_less=True)  # of the present row scale
        m.d.comb += tiles.eq((self.live + lanes - 1) // lanes)
        scale_job = Signal(row_scale_job(lanes), reset_less=True)
        m.d.comb += row_scale.i.payload.eq(scale_job)
        with m.If(do_start):
            m.d.sync += [
                tiles_left.eq(tiles),
                writes_left.eq(Mux(is_uniform, tiles, 1)),
                scale_job.mult.eq(command.mult),
                scale_job.shift.eq(command.shift),
            ]
        self._walk(m, do_start, is_uniform, tiles, queue)
        self._write_scales(m, do_start, tiles, writes_left, row_scale)

        # Control
        take_peak, take_exp, take_uniform = Signal(), Signal(), Signal()
        take_out = take_exp | take_uniform
        columns_left = Signal(range(self._config.max_tokens + 1), reset_less=True)
        is_first = Signal(reset_less=True)
        is_last = columns_left <= depth
        with m.If(do_start | ((take_peak | take_out) & is_last)):
            m.d.sync += [columns_left.eq(self.live), is_first.eq(1)]
        with m.Elif(take_peak | take_out):
            m.d.sync += [columns_left.eq(columns_left - depth), is_first.eq(0)]

        # The sums of a row tile are owed to the row scale from its last exponential until they are handed over.
        is_scale_owed, is_sum_complete = Signal(), Signal()
        m.d.comb += row_scale.i.valid.eq(is_sum_complete)
        with m.If(take_out & is_last):
            m.d.sync += is_scale_owed.eq(1)
        with m.If(row_scale.i.valid & row_scale.i.ready):
            m.d.sync += [is_scale_owed.eq(0), is_sum_complete.eq(0)]

        is_peaking = Signal(2)
        m.d.sync += is_peaking.eq(Cat(take_peak, is_peaking))
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.next = "Peak"
                    with m.If(is_uniform):
                        m.next = "Uniform"
            with m.State("Peak"):
                m.d.comb += [self.wide_words.ready.eq(1), take_peak.eq(self.wide_words.valid)]
                with m.If(take_peak & is_last):
                    m.next = "Settle"
            with m.State("Settle"):
                with m.If((is_peaking == 0) & ~is_scale_owed):
                    m.next = "Exponential"
            with m.State("Exponential"):
                m.d.comb += take_exp.eq(self.wide_words.valid & queue.has_room)
                m.d.comb += self.wide_words.ready.eq(take_exp)
                with m.If(take_exp & is_last):
                    m.d.sync += tiles_left.eq(tiles_left - 1)
                    m.next = "Peak"
                    with m.If(tiles_left == 1):
                        m.next = "Flush"
            with m.State("Uniform"):
                m.d.comb += take_uniform.eq(queue.has_room)
                with m.If(take_uniform & is_last):
                    m.next = "Flush"
            with m.State("Flush"):
                with m.If(queue.is_empty & ~is_scale_owed & row_scale.i.ready):
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"

        is_valid = Cat(position < columns_left for position in range(depth))
        exponentials, do_complete = self._compute(
            m, is_valid, is_peaking[1], take_exp, take_uniform, is_first, is_last, scale_job.sums
        )
        with m.If(do_complete):
            m.d.sync += is_sum_complete.eq(1)
        # UNIFORM counts every live token but CLS, which is column 0 of the first word.
        is_counted = Cat(is_valid[0] & ~is_first, is_valid[1:])
        uniform = Cat(Cat(is_counted[position], Const(0, 7)) for position in range(depth))
        is_exp_out = delay(m, take_exp, ExpChannel.LATENCY, name="is_exp_out", reset_less=False)
        m.d.comb += [
            queue.reserve.eq(take_out),
            queue.push.eq(is_exp_out | take_uniform),
            queue.data.eq(Mux(take_uniform, uniform.replicate(lanes), exponentials)),
        ]
        return m

    def _walk(self, m, do_start, is_uniform, tiles, queue):
        """Form the addresses of the scores and of the exponentials."""
        command, depth = self.command.payload, self._config.depth
        m.submodules.wide_walk = wide_walk = AddressWalk(passes=2)
        m.submodules.act_walk = act_walk = AddressWalk()
        words = Signal(9)
        m.d.comb += words.eq((self.live + depth - 1) // depth)
        for walk, base, stride in (
            (wide_walk, command.src_base, command.src_stride),
            (act_walk, command.dst_base, command.dst_stride),
        ):
            m.d.comb += [
                walk.i.valid.eq(do_start),
                walk.i.payload.base.eq(base),
                walk.i.payload.inner_step.eq(1),
                walk.i.payload.inner_count.eq(words),
                walk.i.payload.outer_step.eq(stride),
                walk.i.payload.outer_count.eq(Mux(is_uniform, 1, tiles)),
            ]
        m.d.comb += wide_walk.i.valid.eq(do_start & ~is_uniform)
        connect(m, wide_walk.o, flipped(self.wide_addresses))
        connect(m, act_walk.o, queue.addresses)

    def _write_scales(self, m, do_start, tiles, writes_left, row_scale):
        """Write each result of the row scale to as many consecutive words as writes_left says."""
        m.submodules.scale_walk = scale_walk = AddressWalk()
        do_write = self.row_scale_writes.valid & self.row_scale_writes.ready
        with m.If(do_write & (writes_left != 1)):
            m.d.sync += writes_left.eq(writes_left - 1)
        m.d.comb += [
            scale_walk.i.valid.eq(do_start),
            scale_walk.i.payload.base.eq(self.command.payload.row_base),
            scale_walk.i.payload.inner_step.eq(1),
            scale_walk.i.payload.inner_count.eq(tiles),
            self.row_scale_writes.valid.eq(row_scale.o.valid),
            self.row_scale_writes.payload.address.eq(scale_walk.o.payload),
            self.row_scale_writes.payload.data.eq(row_scale.o.payload),
            self.row_scale_writes.payload.enable.eq(~0),
            row_scale.o.ready.eq(self.row_scale_writes.ready & (writes_left == 1)),
            scale_walk.o.ready.eq(do_write),
        ]

    def _compute(self, m, is_valid, accumulate_peak, take_exp, take_uniform, is_first, is_last, sums):
        """Add the datapath, free running behind the `take` marks; return the exponentials, and when `sums` complete."""
        lanes, depth = self._config.rows, self._config.depth
        accumulate_sum = delay(m, take_exp, ExpChannel.LATENCY + 1, name="accumulate_sum", reset_less=False)
        is_first_sum = delay(m, is_first, ExpChannel.LATENCY + 1, name="is_first_sum")
        is_last_sum = delay(m, is_last, ExpChannel.LATENCY + 1, name="is_last_sum")
        is_first_peak = delay(m, is_first, 2, name="is_first_peak")
        words = data.View(data.ArrayLayout(signed(16), lanes * depth), self.wide_words.payload)

        def larger(left, right):
            result = Signal(signed(16), name="larger")
            m.d.comb += result.eq(Mux(left > right, left, right))
            return result

        exponentials = []
        for lane in range(lanes):
            peak = Signal(signed(16), name=f"peak_{lane}", reset_less=True)
            word_peak = Signal(signed(16), name=f"word_peak_{lane}", reset_less=True)
            word_sum = Signal(SUM_BITS, name=f"word_sum_{lane}", reset_less=True)
            channels = []
            for position in range(depth):
                channel = place(m, f"channel_{lane}_{position}", ExpChannel, self._channel_module)
                m.d.comb += [
                    channel.x.eq(words[lane * depth + position]),
                    channel.is_valid.eq(is_valid[position]),
                    channel.peak.eq(peak),
                ]
                channels.append(channel)
            m.d.sync += [
                word_peak.eq(reduce_tree(larger, (channel.score for channel in channels))),
                word_sum.eq(reduce_tree(add, (channel.y for channel in channels))),
            ]
            row_sum = sums[lane]
            with m.If(accumulate_peak):
                m.d.sync += peak.eq(Mux(is_first_peak | (word_peak > peak), word_peak, peak))
            with m.If(accumulate_sum):
                m.d.sync += row_sum.eq(word_sum + Mux(is_first_sum, 0, row_sum))
            with m.If(take_uniform):
                m.d.sync += row_sum.eq(self.live - 1)
            exponentials += [Cat(channel.y, Const(0, 1)) for channel in channels]
        return Cat(exponentials), (accumulate_sum & is_last_sum) | (take_uniform & is_last)
