"""LAYER_NORM engine: WIDE rows to ACT rows, R lanes in lock step, K channels per word."""

from operator import add

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.rtl.address_walk import WALK_WIDTH, AddressWalk
from hw.rtl.delay import delay
from hw.rtl.ports import PARAM_ENTRY, ROW_SCALE_ENTRY, descriptor_layout
from hw.rtl.reciprocal_sqrt import VARIANCE_BITS, ReciprocalSqrt
from hw.rtl.requantize import Requantize
from hw.rtl.tree import reduce_tree
from hw.rtl.write_queue import WriteQueue, walk_write_layout

DIM_BITS = 11
TOTAL_BITS = 26
"""sum(x) of 1024 channels of int16: -2**25 is reached, 2**25 is not."""
SQUARES_BITS = 41
"""sum(x**2) of 1024 channels of int16: 2**40 is reached."""
CENTRED_BITS = 27
"""D*x - sum(x)."""
PRODUCT_BITS = 32


class NormChannel(wiring.Component):
    """One channel of one lane: the square in the first pass, the normalised int8 in the second; free running.

    One multiplier serves both passes: x*x, then x*D. `product` and `x_out` belong to the x of 2 cycles before,
    `y` to the x of LATENCY cycles before; gamma and beta are wanted AFFINE_DELAY cycles after their x.

    Members
    -------
    x : In(i16), is_second_pass : In(1)
    dim, total, mult, shift, out_shift : In - constant during the second pass of a row tile.
    gamma : In(i16), beta : In(i32)
    x_out : Out(i16), product : Out(i32), y : Out(i8)
    """

    AFFINE_DELAY = 3 + Requantize.LATENCY
    LATENCY = AFFINE_DELAY + 3

    x: In(signed(16))
    is_second_pass: In(1)
    dim: In(DIM_BITS)
    total: In(signed(TOTAL_BITS))
    mult: In(16)
    shift: In(6)
    gamma: In(signed(16))
    beta: In(signed(32))
    out_shift: In(5)
    x_out: Out(signed(16))
    product: Out(signed(PRODUCT_BITS))
    y: Out(signed(8))

    def elaborate(self, platform):
        m = Module()
        x, factor = Signal(signed(16), reset_less=True), Signal(signed(16), reset_less=True)
        x_out = Signal(signed(16), reset_less=True)
        product = Signal(signed(PRODUCT_BITS), reset_less=True)
        centred = Signal(signed(CENTRED_BITS), reset_less=True)
        m.d.sync += [
            x.eq(self.x),
            factor.eq(Mux(self.is_second_pass, self.dim, self.x)),
            x_out.eq(x),
            product.eq(x * factor),
            centred.eq(product - self.total),
        ]
        m.d.comb += [self.x_out.eq(x_out), self.product.eq(product)]

        m.submodules.requantize = requantize = Requantize(16)
        m.d.comb += [
            requantize.acc.eq(centred),
            requantize.mult.eq(self.mult),
            requantize.shift.eq(self.shift),
        ]

        scaled = Signal(signed(32), reset_less=True)
        beta = Signal(signed(32), reset_less=True)
        rounded = Signal(signed(34), reset_less=True)
        half = Signal(31)
        shifted = Signal(signed(34))
        y = Signal(signed(8), reset_less=True)
        m.d.comb += [half.eq((1 << self.out_shift) >> 1), shifted.eq(rounded >> self.out_shift), self.y.eq(y)]
        m.d.sync += [
            scaled.eq(requantize.o * self.gamma),
            beta.eq(self.beta),
            rounded.eq(scaled + beta + half),
            y.eq(Mux(shifted > 127, 127, Mux(shifted < -128, -128, shifted))),
        ]
        return m


class VarianceSquare(wiring.Component):
    """D*sum(x**2) - sum(x)**2 of each lane, both products bit-serial from the top; 27 cycles.

    Members
    -------
    start : In(1), is_done : Out(1) - is_done stays until the next start.
    dim : In(u11), totals : In(lanes x i26), squares : In(lanes x u41) - stable while it runs.
    variances : Out(lanes x u53)
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__(
            {
                "start": In(1),
                "is_done": Out(1),
                "dim": In(DIM_BITS),
                "totals": In(data.ArrayLayout(signed(TOTAL_BITS), lanes)),
                "squares": In(data.ArrayLayout(SQUARES_BITS, lanes)),
                "variances": Out(data.ArrayLayout(VARIANCE_BITS, lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        steps_left = Signal(range(TOTAL_BITS + 1))
        dim_bits = Signal(TOTAL_BITS, reset_less=True)
        m.d.comb += self.is_done.eq(steps_left == 0)
        with m.If(self.start):
            m.d.sync += [steps_left.eq(TOTAL_BITS), dim_bits.eq(self.dim)]
        with m.Elif(~self.is_done):
            m.d.sync += [steps_left.eq(steps_left - 1), dim_bits.eq(dim_bits << 1)]

        for lane in range(self._lanes):
            magnitude = Signal(TOTAL_BITS, name=f"magnitude_{lane}", reset_less=True)
            magnitude_bits = Signal(TOTAL_BITS, name=f"magnitude_bits_{lane}", reset_less=True)
            # The leading digits alone may give a negative difference.
            difference = Signal(signed(VARIANCE_BITS + 1), name=f"difference_{lane}", reset_less=True)
            total = self.totals[lane]
            with m.If(self.start):
                absolute = Mux(total < 0, -total, total)
                m.d.sync += [magnitude.eq(absolute), magnitude_bits.eq(absolute), difference.eq(0)]
            with m.Elif(~self.is_done):
                m.d.sync += magnitude_bits.eq(magnitude_bits << 1)
                m.d.sync += difference.eq(
                    (difference << 1) + Mux(dim_bits[-1], self.squares[lane], 0) - Mux(magnitude_bits[-1], magnitude, 0)
                )
            m.d.comb += self.variances[lane].eq(difference)
        return m


class LayerNorm(wiring.Component):
    """LAYER_NORM: two passes over each row tile, sums first. Golden: quant.approx.layer_norm.

    A row tile of W words takes 2*W cycles and about 85 more for the pipelines, the variance, its root and the
    reciprocal, all lanes together.

    Members
    -------
    command : In(stream of descriptor_layout) - taken when idle;  done : Out(1) - after the last write.
    live : In - the live token count.
    wide_addresses, param_addresses : Out(address streams);  wide_words, param_words : In(word streams)
    act_writes : Out(stream of unchecked writes)
    """

    def __init__(self, config: AccelConfig):
        self._config = config
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
        lanes, depth = self._config.rows, self._config.depth
        m.submodules.wide_walk = wide_walk = AddressWalk(passes=2)
        m.submodules.param_walk = param_walk = AddressWalk()
        m.submodules.act_walk = act_walk = AddressWalk()
        m.submodules.queue = queue = WriteQueue(8 * self._config.act_bytes, lanes)
        m.submodules.variance = variance = VarianceSquare(lanes)
        m.submodules.reciprocal = reciprocal = ReciprocalSqrt(lanes)
        connect(m, wide_walk.o, flipped(self.wide_addresses))
        connect(m, param_walk.o, flipped(self.param_addresses))
        connect(m, act_walk.o, queue.addresses)
        connect(m, queue.writes, flipped(self.act_writes))

        # Command
        command = self.command.payload
        job = Signal(data.StructLayout({"words": 16, "dim": DIM_BITS, "shift": 5, "eps": 32}), reset_less=True)
        words_left, tiles_left = Signal(16, reset_less=True), Signal(16, reset_less=True)
        rows, tiles = Signal(16), Signal(16)
        do_start = self.command.valid & self.command.ready
        m.d.comb += [
            rows.eq(Mux(command.rows == 0, self.live, command.rows)),
            tiles.eq((rows + lanes - 1) // lanes),
        ]
        with m.If(do_start):
            m.d.sync += [
                job.words.eq(command.src_words),
                job.dim.eq(command.dim),
                job.shift.eq(command.shift),
                job.eps.eq(command.eps),
                words_left.eq(command.src_words),
                tiles_left.eq(tiles),
            ]
        for walk, base, stride in (
            (wide_walk, command.src_base, command.src_stride),
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

        # Control: which pass takes the words
        take_sum, take_norm = Signal(), Signal()
        is_last_word = words_left == 1
        with m.If(take_sum | take_norm):
            m.d.sync += words_left.eq(Mux(is_last_word, job.words, words_left - 1))
        is_first = Signal(reset_less=True)
        is_summing = Signal(3)
        m.d.sync += is_summing.eq(Cat(take_sum, is_summing))
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.d.sync += is_first.eq(1)
                    m.next = "Sum"
            with m.State("Sum"):
                m.d.comb += self.wide_words.ready.eq(1)
                m.d.comb += take_sum.eq(self.wide_words.valid)
                with m.If(take_sum):
                    m.d.sync += is_first.eq(0)
                    with m.If(is_last_word):
                        m.next = "Settle"
            with m.State("Settle"):
                with m.If(is_summing == 0):
                    m.d.comb += variance.start.eq(1)
                    m.next = "Variance"
            with m.State("Variance"):
                m.d.comb += reciprocal.i.valid.eq(variance.is_done)
                with m.If(variance.is_done & reciprocal.i.ready):
                    m.next = "Reciprocal"
            with m.State("Reciprocal"):
                m.d.comb += reciprocal.o.ready.eq(1)
                with m.If(reciprocal.o.valid):
                    m.next = "Normalise"
            with m.State("Normalise"):
                m.d.comb += take_norm.eq(self.wide_words.valid & self.param_words.valid & queue.has_room)
                m.d.comb += [self.wide_words.ready.eq(take_norm), self.param_words.ready.eq(take_norm)]
                with m.If(take_norm & is_last_word):
                    m.d.sync += [is_first.eq(1), tiles_left.eq(tiles_left - 1)]
                    m.next = "Sum"
                    with m.If(tiles_left == 1):
                        m.next = "Flush"
            with m.State("Flush"):
                with m.If(queue.is_empty):
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"

        # Datapath: every stage runs free, `take_*` marks the valid words
        is_second_pass = Signal()
        m.d.comb += is_second_pass.eq(take_norm)
        entries = Signal(data.ArrayLayout(ROW_SCALE_ENTRY, lanes), reset_less=True)
        with m.If(reciprocal.o.valid & reciprocal.o.ready):
            m.d.sync += entries.eq(reciprocal.o.payload)
        first_sum = delay(m, is_first, 3, name="first_sum")
        params = delay(m, self.param_words.payload, NormChannel.AFFINE_DELAY, name="params")
        params = data.View(data.ArrayLayout(PARAM_ENTRY, depth), params)
        words = data.View(data.ArrayLayout(signed(16), lanes * depth), self.wide_words.payload)
        totals = Signal(data.ArrayLayout(signed(TOTAL_BITS), lanes), reset_less=True)
        squares = Signal(data.ArrayLayout(SQUARES_BITS, lanes), reset_less=True)
        m.d.comb += [variance.dim.eq(job.dim), variance.totals.eq(totals), variance.squares.eq(squares)]

        results = []
        for lane in range(lanes):
            channels = []
            for position in range(depth):
                channel = NormChannel()
                m.submodules[f"channel_{lane}_{position}"] = channel
                m.d.comb += [
                    channel.x.eq(words[lane * depth + position]),
                    channel.is_second_pass.eq(is_second_pass),
                    channel.dim.eq(job.dim),
                    channel.total.eq(totals[lane]),
                    channel.mult.eq(entries[lane].mult),
                    channel.shift.eq(entries[lane].shift),
                    channel.gamma.eq(params[position].mult.as_signed()),
                    channel.beta.eq(params[position].bias.as_signed()),
                    channel.out_shift.eq(job.shift),
                ]
                channels.append(channel)
            results += [channel.y for channel in channels]
            word_total = Signal(signed(TOTAL_BITS), name=f"word_total_{lane}", reset_less=True)
            word_squares = Signal(SQUARES_BITS, name=f"word_squares_{lane}", reset_less=True)
            m.d.sync += [
                word_total.eq(reduce_tree(add, (channel.x_out for channel in channels))),
                word_squares.eq(reduce_tree(add, (channel.product for channel in channels))),
            ]
            with m.If(is_summing[2]):
                m.d.sync += [
                    totals[lane].eq(word_total + Mux(first_sum, 0, totals[lane])),
                    squares[lane].eq(word_squares + Mux(first_sum, 0, squares[lane])),
                ]
            m.d.comb += reciprocal.i.payload[lane].eq(variance.variances[lane] + job.eps)
        m.d.comb += [queue.reserve.eq(take_norm), queue.data.eq(Cat(results))]
        m.d.comb += queue.push.eq(delay(m, take_norm, NormChannel.LATENCY, name="push", reset_less=False))
        return m
