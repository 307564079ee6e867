"""LAYER_NORM engine: WIDE rows to ACT rows, R lanes in lock step, K channels per word."""

from operator import add

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.rtl.address_walk import WALK_WIDTH, AddressWalk
from hw.rtl.covered_rows import covered_rows
from hw.rtl.delay import delay
from hw.rtl.norm_channel import NormChannel
from hw.rtl.ports import PARAM_ENTRY, descriptor_layout
from hw.rtl.repeat import place
from hw.rtl.row_statistics import DIM_BITS, SQUARES_BITS, TOTAL_BITS, RowStatistics, row_constants, row_sums
from hw.rtl.tree import reduce_tree
from hw.rtl.write_queue import WriteQueue, walk_write_layout

job_layout = data.StructLayout({"words": 16, "dim": DIM_BITS, "shift": 5, "eps": 32})
"""What stays constant during a command."""


class LayerNorm(wiring.Component):
    """LAYER_NORM: two passes over each row tile, sums first. Golden: quant.approx.layer_norm.

    The serial statistics of a row tile overlap the sums of the next tile and the normalisation of the one before:
    sum 0, sum 1, normalise 0, sum 2, normalise 1 ... A row tile of W words takes max(2*W + 5, 67) cycles.

    Members
    -------
    command : In(stream of descriptor_layout) - taken when idle;  done : Out(1) - after the last write.
    live : In - the live token count of the command's picture.
    wide_addresses, param_addresses : Out(address streams);  wide_words, param_words : In(word streams)
    act_writes : Out(stream of unchecked writes)
    """

    def __init__(self, config: AccelConfig, channel_module: str | None = None):
        """Take the name of a Verilog module generated separately from NormChannel, or elaborate R * K channels."""
        self._config, self._channel_module = config, channel_module
        super().__init__(
            {
                "command": In(stream.Signature(descriptor_layout)),
                "done": Out(1),
                "live": In(range(config.max_tokens + 1)),
                "wide_addresses": Out(stream.Signature(WALK_WIDTH)),
                "wide_words": In(stream.Signature(8 * config.wide_bytes)),
                "param_addresses": Out(stream.Signature(WALK_WIDTH)),
                "param_words": In(stream.Signature(8 * config.param_bytes)),
                "act_writes": Out(stream.Signature(walk_write_layout(8 * config.act_bytes, config.rows))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = self._config.rows
        m.submodules.queue = queue = WriteQueue(8 * self._config.act_bytes, lanes)
        m.submodules.statistics = statistics = RowStatistics(lanes)
        connect(m, queue.writes, flipped(self.act_writes))

        # Command
        command = self.command.payload
        do_start = self.command.valid & self.command.ready
        job = Signal(job_layout, reset_less=True)
        tiles = Signal(16)
        rows = covered_rows(m, command, self.live, lanes)
        m.d.comb += [
            tiles.eq((rows + lanes - 1) // lanes),
            statistics.dim.eq(job.dim),
            statistics.eps.eq(job.eps),
        ]
        with m.If(do_start):
            m.d.sync += [
                job.words.eq(command.src_words),
                job.dim.eq(command.dim),
                job.shift.eq(command.shift),
                job.eps.eq(command.eps),
            ]
        self._walk(m, do_start, tiles, queue)

        # Control: which pass takes the words
        take_sum, take_norm = Signal(), Signal()
        words_left, sums_left = Signal(16, reset_less=True), Signal(16, reset_less=True)
        is_last_word = words_left <= 1
        is_first_word = Signal(reset_less=True)
        is_in_statistics, is_ready = Signal(), Signal()
        do_collect = statistics.o.valid & statistics.o.ready
        do_submit = statistics.i.valid & statistics.i.ready
        with m.If(do_start):
            m.d.sync += [words_left.eq(command.src_words), sums_left.eq(tiles)]
        with m.Elif(take_sum | take_norm):
            m.d.sync += words_left.eq(Mux(is_last_word, job.words, words_left - 1))
        with m.If(do_start | do_submit):
            m.d.sync += is_first_word.eq(1)
        with m.Elif(take_sum):
            m.d.sync += is_first_word.eq(0)
        # A word meets the sums, or the constants of its row tile, within three cycles.
        is_recent = Signal(3)
        m.d.sync += is_recent.eq(Cat(take_sum | take_norm, is_recent))
        is_settled = is_recent == 0

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.next = "Sum"
            with m.State("Sum"):
                m.d.comb += self.wide_words.ready.eq(1)
                m.d.comb += take_sum.eq(self.wide_words.valid)
                with m.If(take_sum & is_last_word):
                    m.d.sync += sums_left.eq(sums_left - 1)
                    m.next = "Exchange"
            with m.State("Exchange"):
                # The constants of the row tile before come out, the sums of this one go in.
                m.d.comb += statistics.o.ready.eq(is_settled)
                m.d.comb += statistics.i.valid.eq(is_settled & ~is_in_statistics)
                with m.If(do_collect):
                    m.d.sync += [is_in_statistics.eq(0), is_ready.eq(1)]
                with m.If(do_submit):
                    m.d.sync += is_in_statistics.eq(1)
                    m.next = "Collect"
                    with m.If(is_ready):
                        m.next = "Normalise"
                    with m.Elif(sums_left != 0):
                        m.next = "Sum"
            with m.State("Collect"):
                m.d.comb += statistics.o.ready.eq(is_settled)
                with m.If(do_collect):
                    m.d.sync += is_in_statistics.eq(0)
                    m.next = "Normalise"
            with m.State("Normalise"):
                m.d.comb += take_norm.eq(self.wide_words.valid & self.param_words.valid & queue.has_room)
                m.d.comb += [self.wide_words.ready.eq(take_norm), self.param_words.ready.eq(take_norm)]
                with m.If(take_norm & is_last_word):
                    m.d.sync += is_ready.eq(0)
                    m.next = "Flush"
                    with m.If(sums_left != 0):
                        m.next = "Sum"
                    with m.Elif(is_in_statistics):
                        m.next = "Collect"
            with m.State("Flush"):
                with m.If(queue.is_empty):
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"

        constants = Signal(row_constants(lanes), reset_less=True)
        with m.If(do_collect):
            m.d.sync += constants.eq(statistics.o.payload)
        sums = self._compute(m, job, constants, take_sum, take_norm, is_first_word, queue)
        m.d.comb += statistics.i.payload.eq(sums)
        return m

    def _walk(self, m, do_start, tiles, queue):
        """Form all addresses; the two passes over WIDE alternate by row tile, the sums one tile ahead."""
        command = self.command.payload
        m.submodules.sum_walk = sum_walk = AddressWalk()
        m.submodules.norm_walk = norm_walk = AddressWalk()
        m.submodules.param_walk = param_walk = AddressWalk()
        m.submodules.act_walk = act_walk = AddressWalk()
        for walk, base, stride in (
            (sum_walk, command.src_base, command.src_stride),
            (norm_walk, command.src_base, command.src_stride),
            (param_walk, command.param_base, 0),
            (act_walk, command.dst_base, command.dst_stride),
        ):
            m.d.comb += [
                walk.i.valid.eq(do_start),
                walk.i.payload.base.eq(base),
                walk.i.payload.inner_step.eq(1),
                walk.i.payload.inner_count.eq(command.src_words),
                walk.i.payload.outer_step.eq(stride),
                walk.i.payload.outer_count.eq(tiles),
            ]
        connect(m, param_walk.o, flipped(self.param_addresses))
        connect(m, act_walk.o, queue.addresses)

        is_norm_turn, is_first_tile = Signal(), Signal()
        words, words_left = Signal(16, reset_less=True), Signal(16, reset_less=True)
        with m.If(do_start):
            m.d.sync += [is_norm_turn.eq(0), is_first_tile.eq(1)]
            m.d.sync += [words.eq(command.src_words), words_left.eq(command.src_words)]
        with m.Elif(self.wide_addresses.valid & self.wide_addresses.ready):
            m.d.sync += words_left.eq(words_left - 1)
            with m.If(words_left <= 1):
                m.d.sync += [words_left.eq(words), is_first_tile.eq(0)]
                m.d.sync += is_norm_turn.eq(~is_norm_turn & ~is_first_tile)
        # After its last row tile the sum walk has nothing to offer, and only normalisation is left.
        with m.If(is_norm_turn | ~sum_walk.o.valid):
            connect(m, norm_walk.o, flipped(self.wide_addresses))
        with m.Else():
            connect(m, sum_walk.o, flipped(self.wide_addresses))

    def _compute(self, m, job, constants, take_sum, take_norm, is_first_word, queue):
        """Add the datapath, free running behind the two `take` marks; return the sums of the row tile."""
        lanes, depth = self._config.rows, self._config.depth
        accumulate = delay(m, take_sum, 3, name="accumulate", reset_less=False)
        is_first_sum = delay(m, is_first_word, 3, name="is_first_sum")
        params = delay(m, self.param_words.payload, NormChannel.AFFINE_DELAY, name="params")
        params = data.View(data.ArrayLayout(PARAM_ENTRY, depth), params)
        words = data.View(data.ArrayLayout(signed(16), lanes * depth), self.wide_words.payload)
        sums = Signal(row_sums(lanes), reset_less=True)

        results = []
        for lane in range(lanes):
            channels = []
            for position in range(depth):
                channel = place(m, f"channel_{lane}_{position}", NormChannel, self._channel_module)
                m.d.comb += [
                    channel.x.eq(words[lane * depth + position]),
                    channel.is_second_pass.eq(take_norm),
                    channel.dim.eq(job.dim),
                    channel.total.eq(constants.totals[lane]),
                    channel.mult.eq(constants.scales[lane].mult),
                    channel.shift.eq(constants.scales[lane].shift),
                    channel.gamma.eq(params[position].mult.as_signed()),
                    channel.beta.eq(params[position].bias.as_signed()),
                    channel.out_shift.eq(job.shift),
                ]
                channels.append(channel)
            results += [channel.y for channel in channels]
            word_total = Signal(signed(TOTAL_BITS), name=f"word_total_{lane}", reset_less=True)
            word_squares = Signal(SQUARES_BITS, name=f"word_squares_{lane}", reset_less=True)
            total, squares = sums.totals[lane], sums.squares[lane]
            m.d.sync += [
                word_total.eq(reduce_tree(add, (channel.x_out for channel in channels))),
                word_squares.eq(reduce_tree(add, (channel.product for channel in channels))),
            ]
            with m.If(accumulate):
                m.d.sync += [
                    total.eq(word_total + Mux(is_first_sum, 0, total)),
                    squares.eq(word_squares + Mux(is_first_sum, 0, squares)),
                ]
        m.d.comb += [
            queue.reserve.eq(take_norm),
            queue.push.eq(delay(m, take_norm, NormChannel.LATENCY, name="push", reset_less=False)),
            queue.data.eq(Cat(results)),
        ]
        return sums
