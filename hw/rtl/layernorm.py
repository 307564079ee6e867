"""LAYER_NORM engine: WIDE rows to ACT rows, R lanes in lock step, norm_width channels of a lane per cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.rtl.address_walk import WALK_WIDTH, AddressWalk
from hw.rtl.covered_rows import covered_rows
from hw.rtl.delay import delay
from hw.rtl.norm_channel import NormChannel
from hw.rtl.ports import PARAM_ENTRY, descriptor_layout
from hw.rtl.reciprocal_sqrt import DIM_BITS, ROW_FACTORS
from hw.rtl.repeat import place
from hw.rtl.row_statistics import RowStatistics
from hw.rtl.row_sums import RowSums
from hw.rtl.stream import Fifo
from hw.rtl.word_parts import Gather, Split, select_part
from hw.rtl.write_queue import WriteQueue, walk_write_layout
from hw.timing import READ_LATENCY, norm_width

job_layout = data.StructLayout({"words": 16, "dim": DIM_BITS, "shift": 5, "eps": 32})
"""What stays constant during a command."""

TILES_MAX = RowStatistics.JOBS + 1
"""Row tiles whose sums have begun and whose normalisation has not: those in the statistics, and one of finished sums.

With one more, sums at the head of the words could wait for a normalisation whose words come behind them."""


class LayerNorm(wiring.Component):
    """LAYER_NORM: two passes over each row tile, sums first. Golden: quant.approx.layer_norm.

    Both passes run at the same time on different row tiles and take words in turns, a word every other cycle each; the
    statistics of up to three row tiles lie between. A row tile of W words takes max(2*W, 16) cycles
    (up to two more for W = 7 to 9, where the turns and the statistics get out of step).

    Members
    -------
    command : In(stream of descriptor_layout) - taken when idle;  done : Out(1) - after the last write.
    live : In - the live token count of the command's picture.
    wide_addresses, param_addresses : Out(address streams);  wide_words, param_words : In(word streams)
    act_writes : Out(stream of unchecked writes)
    """

    def __init__(self, config: AccelConfig, channel_module: str | None = None):
        """Take the name of a Verilog module generated separately from NormChannel, or elaborate the channels here."""
        self._config, self._channel_module = config, channel_module
        self._width = norm_width(config)
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
        config = self._config
        lanes, parts = config.rows, config.depth // self._width
        m.submodules.queue = queue = WriteQueue(8 * config.act_bytes, lanes)
        m.submodules.statistics = statistics = RowStatistics(lanes)
        m.submodules.sums = sums = RowSums(lanes, self._width)
        m.submodules.sum_parts = sum_parts = Split(lanes, config.depth, self._width, 16)
        m.submodules.norm_parts = norm_parts = Split(lanes, config.depth, self._width, 16)
        connect(m, queue.writes, flipped(self.act_writes))
        connect(m, sum_parts.o, sums.parts)
        connect(m, sums.o, statistics.i)

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
            sums.start.eq(do_start),
            sums.num_parts.eq(Mux(do_start, command.src_words, job.words) * parts),
        ]
        with m.If(do_start):
            m.d.sync += [
                job.words.eq(command.src_words),
                job.dim.eq(command.dim),
                job.shift.eq(command.shift),
                job.eps.eq(command.addend),
            ]

        # The second pass: it takes the factors of a row tile with the first part.
        take = Signal()
        part, words_left, tiles_left = Signal(range(parts)), Signal(16, reset_less=True), Signal(16)
        is_first_word = Signal(reset_less=True)
        is_tile_start = is_first_word & (part == 0)
        is_word_end, is_tile_end = part == parts - 1, (part == parts - 1) & (words_left == 1)
        has_place = (part != 0) | queue.has_room
        m.d.comb += [
            take.eq(norm_parts.o.valid & self.param_words.valid & has_place & (statistics.o.valid | ~is_tile_start)),
            norm_parts.o.ready.eq(take),
            self.param_words.ready.eq(take & is_word_end),
            statistics.o.ready.eq(take & is_tile_start),
            queue.reserve.eq(take & (part == 0)),
        ]
        with m.If(take):
            m.d.sync += part.eq(part + 1)  # the number of parts is a power of two
        with m.If(do_start | (take & is_tile_end)):
            m.d.sync += [words_left.eq(Mux(do_start, command.src_words, job.words)), is_first_word.eq(1)]
        with m.Elif(take & is_word_end):
            m.d.sync += [words_left.eq(words_left - 1), is_first_word.eq(0)]
        with m.If(do_start):
            m.d.sync += tiles_left.eq(tiles)
        with m.Elif(take & is_tile_end):
            m.d.sync += tiles_left.eq(tiles_left - 1)
        is_running = Signal()
        m.d.comb += [
            self.command.ready.eq(~is_running),
            self.done.eq(is_running & (tiles_left == 0) & queue.is_empty),
        ]
        with m.If(do_start):
            m.d.sync += is_running.eq(1)
        with m.Elif(self.done):
            m.d.sync += is_running.eq(0)

        self._read(m, do_start, tiles, job, queue, statistics.o, sum_parts, norm_parts)
        self._normalise(m, job, statistics.o, norm_parts, part, take, queue)
        return m

    def _read(self, m, do_start, tiles, job, queue, factors, sum_parts, norm_parts):
        """Form all addresses; hand each word of WIDE to the pass that has asked for it."""
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

        # A row tile is read for its sums while there is room for them, and again when its factors are there.
        do_collect, is_counted = factors.valid & factors.ready, Signal()
        num_summed = Signal(range(TILES_MAX + 1))  # row tiles from their first sum word to their normalisation
        num_ready = Signal(2)  # row tiles with factors, until their last word has been asked for
        is_sum_start, _ = self._count_words(m, do_start, command, job, sum_walk.o, "sum")
        _, is_norm_end = self._count_words(m, do_start, command, job, norm_walk.o, "norm")
        do_sum, do_norm = sum_walk.o.ready, norm_walk.o.ready
        do_count = factors.valid & ~is_counted
        m.d.sync += [
            is_counted.eq(factors.valid & ~factors.ready),
            num_summed.eq(num_summed + (do_sum & is_sum_start) - do_collect),
            num_ready.eq(num_ready + do_count - (do_norm & is_norm_end)),
        ]

        # Each pass asks every other cycle at most, which is its rate: more would only stand before the other's words.
        # The second pass fills the cycles between the requests of the first.
        m.submodules.turns = turns = Fifo(1, READ_LATENCY + 3)  # one more than a MemoryReader has words on their way
        has_asked, is_norm_waiting = Signal(2), Signal()
        wants_sum, wants_norm, is_norm_turn = Signal(), Signal(), Signal()
        addresses = self.wide_addresses
        m.d.comb += [
            wants_sum.eq(sum_walk.o.valid & (~is_sum_start | (num_summed != TILES_MAX)) & ~has_asked[0]),
            wants_norm.eq(norm_walk.o.valid & (num_ready != 0) & ~has_asked[1]),
            is_norm_turn.eq(is_norm_waiting | ~wants_sum),
            addresses.payload.eq(Mux(is_norm_turn, norm_walk.o.payload, sum_walk.o.payload)),
            addresses.valid.eq(Mux(is_norm_turn, wants_norm, wants_sum) & turns.i.ready),
            turns.i.payload.eq(is_norm_turn),
            turns.i.valid.eq(addresses.valid & addresses.ready),
            sum_walk.o.ready.eq(turns.i.valid & ~is_norm_turn),
            norm_walk.o.ready.eq(turns.i.valid & is_norm_turn),
            turns.o.ready.eq(self.wide_words.valid & self.wide_words.ready),
        ]
        m.d.sync += [
            has_asked.eq(Cat(sum_walk.o.ready, norm_walk.o.ready)),
            is_norm_waiting.eq(wants_norm & is_norm_turn & ~turns.i.valid),
        ]
        for turn, parts in enumerate((sum_parts, norm_parts)):
            is_turn = turns.o.valid & (turns.o.payload == turn)
            m.d.comb += [
                parts.i.payload.eq(self.wide_words.payload),
                parts.i.valid.eq(self.wide_words.valid & is_turn),
            ]
            with m.If(is_turn):
                m.d.comb += self.wide_words.ready.eq(parts.i.ready)

    def _count_words(self, m, do_start, command, job, addresses, name):
        """Return whether the next address of a walk is the first, and whether the last, of a row tile."""
        left = Signal(16, name=f"{name}_words_left", reset_less=True)
        is_start = Signal(name=f"is_{name}_start", reset_less=True)
        is_end = left == 1
        do_read = addresses.valid & addresses.ready
        with m.If(do_start | (do_read & is_end)):
            m.d.sync += [left.eq(Mux(do_start, command.src_words, job.words)), is_start.eq(1)]
        with m.Elif(do_read):
            m.d.sync += [left.eq(left - 1), is_start.eq(0)]
        return is_start, is_end

    def _normalise(self, m, job, factors, norm_parts, part, take, queue):
        """Add the datapath of the second pass, free running behind `take`; its words go into the queue."""
        lanes, width = self._config.rows, self._width
        entries = data.View(data.ArrayLayout(PARAM_ENTRY, self._config.depth), self.param_words.payload)
        gammas, betas = [], []
        for position, bits in enumerate(select_part(entries, width, part)):
            entry, beta = data.View(PARAM_ENTRY, bits), Signal(signed(33), name=f"beta_{position}", reset_less=True)
            m.d.sync += beta.eq(entry.bias.as_signed() + ((1 << job.shift) >> 1))
            betas.append(delay(m, beta, NormChannel.AFFINE_DELAY - 1, name=f"beta_{position}"))
            gamma = entry.mult.as_signed()
            gammas.append(delay(m, gamma, NormChannel.AFFINE_DELAY, name=f"gamma_{position}"))

        xs = data.View(data.ArrayLayout(signed(16), lanes * width), norm_parts.o.payload)
        results = []
        for lane in range(lanes):
            row = Signal(ROW_FACTORS, name=f"row_{lane}", reset_less=True)
            with m.If(factors.ready):
                m.d.sync += row.eq(factors.payload[lane])
            offset = delay(m, row.offset, 1, name=f"offset_{lane}")
            shift = delay(m, row.shift, 2, name=f"shift_{lane}")
            for position in range(width):
                channel = place(m, f"channel_{lane}_{position}", NormChannel, self._channel_module)
                m.d.comb += [
                    channel.x.eq(xs[lane * width + position]),
                    channel.factor.eq(row.factor),
                    channel.offset.eq(offset),
                    channel.shift.eq(shift),
                    channel.gamma.eq(gammas[position]),
                    channel.beta.eq(betas[position]),
                    channel.out_shift.eq(job.shift),
                ]
                results.append(channel.y)
        m.submodules.gather = gather = Gather(lanes, self._config.depth, width, 8)
        m.d.comb += [
            gather.push.eq(delay(m, take, NormChannel.LATENCY, name="push", reset_less=False)),
            gather.part.eq(Cat(results)),
            queue.push.eq(gather.valid),
            queue.data.eq(gather.word),
        ]
