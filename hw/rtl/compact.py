"""BEGIN and COMPACT engine: it owns the live token count, the token list and the package."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Opcode
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.rtl.address_walk import WALK_WIDTH, AddressWalk
from hw.rtl.package import Package
from hw.rtl.ports import descriptor_layout, token_read
from hw.rtl.row_scale import RowScale
from hw.rtl.row_unpack import RowUnpack
from hw.rtl.selector import WEIGHT_FRACTION_BITS, decision_write, verdict_layout
from hw.rtl.token_list import TokenList
from hw.rtl.write_queue import walk_write_layout
from quant.reference import PACKAGE_TOKEN

PACKAGE_MULT, PACKAGE_SHIFT = 1 << 15, 15
"""The constants that quant.approx.package_token hands to row_scale: a plain division."""


class Compact(wiring.Component):
    """BEGIN and COMPACT. Golden: the selection rule of docs/architecture.md and quant.approx.package_token.

    COMPACT takes one cycle per live token and channel word and about 12 more per channel word; if nothing leaves it
    takes two cycles. It works in place: channel word by channel word it reads each row tile once, in order, and writes
    token t to t' <= t, so a write only meets lanes of row tiles that have been read as a whole; the package follows
    the last read of its channel word. However long a read takes or waits, none can be overtaken by a write it needs.

    Members
    -------
    command : In(stream of descriptor_layout) - taken when idle.
    done : Out(1) - after the last write;  fault : Out(1) - BEGIN with more than max_tokens rows or COMPACT into a
        register that does not exist; frozen until reset.
    tokens : Out(pictures x u16) - the live tokens of each picture, 0 after reset.
    picture : In - stable from the command to done;  live : Out, has_package : Out(1) - its live tokens, and whether a
        package is the last of them.
    token_counts : Out(registers x u16) - live after each COMPACT, by its index.
    decide, decision, verdict : In - from Select.
    wide_addresses : Out(address stream);  wide_words : In(word stream);  wide_writes : Out(unchecked writes)
    token : In(read port of the token list, seen from the reader)
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                "command": In(stream.Signature(descriptor_layout)),
                "done": Out(1),
                "fault": Out(1),
                "picture": In(range(config.pictures)),
                "tokens": Out(data.ArrayLayout(16, config.pictures)),
                "live": Out(range(config.max_tokens + 1)),
                "has_package": Out(1),
                "token_counts": Out(data.ArrayLayout(16, NUM_TOKEN_REGISTERS)),
                "decide": In(1),
                "decision": In(decision_write(config)),
                "verdict": In(verdict_layout),
                "wide_addresses": Out(stream.Signature(WALK_WIDTH)),
                "wide_words": In(stream.Signature(8 * config.wide_bytes)),
                "wide_writes": Out(stream.Signature(walk_write_layout(8 * config.wide_bytes, config.rows))),
                "token": In(token_read()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, max_tokens = self._config.rows, self._config.max_tokens
        m.submodules.wide_walk = wide_walk = AddressWalk()
        m.submodules.unpack = unpack = RowUnpack(self._config)
        m.submodules.package = package = Package(self._config.depth)
        m.submodules.row_scale = row_scale = RowScale(1)
        m.submodules.tokens = tokens = TokenList(self._config)
        connect(m, wide_walk.o, flipped(self.wide_addresses))
        connect(m, tokens.port, flipped(self.token))

        # Command
        command = self.command.payload
        is_begin = command.opcode == Opcode.BEGIN
        is_merging = self.verdict.pruned != 0
        is_weightless = self.verdict.weight_sum == 0
        is_outside = Mux(is_begin, command.rows > max_tokens, command.index >= NUM_TOKEN_REGISTERS)
        do_merge = self.command.valid & self.command.ready & ~is_begin & is_merging & ~is_outside
        stride, index = Signal(16, reset_less=True), Signal(16, reset_less=True)
        rows, words_left = Signal.like(self.live, reset_less=True), Signal(16, reset_less=True)
        is_first_word = Signal(reset_less=True)
        m.d.comb += [
            wide_walk.i.valid.eq(do_merge),
            wide_walk.i.payload.base.eq(command.src_base),
            wide_walk.i.payload.inner_step.eq(command.src_stride),
            wide_walk.i.payload.inner_count.eq((self.live + lanes - 1) // lanes),
            wide_walk.i.payload.outer_step.eq(1),
            wide_walk.i.payload.outer_count.eq(command.src_words),
            row_scale.i.valid.eq(do_merge),
            row_scale.i.payload.sums[0].eq(Mux(is_weightless, self.verdict.pruned, self.verdict.weight_sum)),
            row_scale.i.payload.mult.eq(PACKAGE_MULT),
            row_scale.i.payload.shift.eq(PACKAGE_SHIFT),
            package.mult.eq(row_scale.o.payload[0].mult),
            package.shift.eq(row_scale.o.payload[0].shift),
        ]

        # The next row: a kept one waits for its write, any other is weighed into the package
        front = unpack.o.payload
        is_moving, is_packing = Signal(), Signal()
        do_step = unpack.o.valid & unpack.o.ready
        connect(m, flipped(self.wide_words), unpack.words)
        m.d.comb += [
            unpack.start.eq(do_merge),
            unpack.live.eq(self.live),
            unpack.decide.eq(self.decide),
            unpack.decision.eq(self.decision),
            unpack.o.ready.eq(is_moving & (~front.decision.is_kept | self.wide_writes.ready)),
            package.row.eq(front.row),
        ]
        with m.If(do_step & ~front.decision.is_kept):
            m.d.comb += package.weight.eq(Mux(is_weightless, 1, front.decision.score[WEIGHT_FRACTION_BITS:]))

        # Where the next kept token goes
        source, target = Signal(range(max_tokens), reset_less=True), Signal(range(max_tokens), reset_less=True)
        target_address, target_lane = Signal(WALK_WIDTH, reset_less=True), Signal(lanes, reset_less=True)
        word_address = Signal(WALK_WIDTH, reset_less=True)
        do_write = self.wide_writes.valid & self.wide_writes.ready
        m.d.comb += [
            self.wide_writes.valid.eq(is_packing | (is_moving & unpack.o.valid & front.decision.is_kept)),
            self.wide_writes.payload.address.eq(target_address),
            self.wide_writes.payload.enable.eq(target_lane),
            self.wide_writes.payload.data.eq(
                Mux(is_packing, package.mean.as_value(), front.row.as_value()).replicate(lanes)
            ),
        ]
        with m.If(do_step):
            m.d.sync += source.eq(source + 1)
        with m.If(do_write):
            m.d.sync += [target.eq(target + 1), target_lane.eq(target_lane.rotate_left(1))]
            with m.If(target_lane[-1]):
                m.d.sync += target_address.eq(target_address + stride)
        do_next_word = is_packing & do_write
        with m.If(do_merge):
            m.d.sync += [word_address.eq(command.src_base), target_address.eq(command.src_base)]
        with m.Elif(do_next_word):
            m.d.sync += [word_address.eq(word_address + 1), target_address.eq(word_address + 1)]
        with m.If(do_merge | do_next_word):
            m.d.sync += [source.eq(0), target.eq(0), target_lane.eq(1)]

        m.d.comb += package.clear.eq(do_merge | do_next_word)

        # Token list: numbered by BEGIN, compacted along with the first channel word
        is_numbering = Signal()
        m.d.comb += [
            tokens.picture.eq(self.picture),
            tokens.read_index.eq(source),
            tokens.write.eq(is_numbering | (do_write & is_first_word)),
            tokens.write_index.eq(target),
            tokens.write_token.eq(Mux(is_numbering, target, Mux(is_packing, PACKAGE_TOKEN, tokens.read_token))),
        ]

        # What is known of each picture
        do_number, do_commit = Signal(), Signal()
        next_live = Signal.like(self.live)
        packages = Signal(self._config.pictures)
        m.d.comb += [
            self.live.eq(self.tokens[self.picture]),
            self.has_package.eq(packages.bit_select(self.picture, 1)),
            next_live.eq(Mux(do_number, rows, self.live - self.verdict.pruned + is_merging)),
        ]
        m.d.sync += self.done.eq(do_number | do_commit)  # registered, so that live is new when done is seen
        with m.If(do_number | do_commit):
            m.d.sync += [
                self.tokens[self.picture].eq(next_live),
                packages.bit_select(self.picture, 1).eq(do_commit & is_merging),
            ]

        # Control
        settled = Signal(range(Package.LATENCY))
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid & self.command.ready):
                    m.d.sync += [
                        stride.eq(command.src_stride),
                        index.eq(command.index),
                        rows.eq(command.rows),
                        words_left.eq(command.src_words),
                        is_first_word.eq(1),
                    ]
                    with m.If(is_outside):
                        m.next = "Fault"
                    with m.Elif(~is_begin):
                        m.next = "Commit"
                        with m.If(is_merging):
                            m.next = "Move"
                    with m.Else():
                        m.d.sync += target.eq(0)
                        m.next = "Number"
            with m.State("Number"):
                m.d.comb += is_numbering.eq(1)
                m.d.sync += target.eq(target + 1)
                with m.If(target + 1 >= rows):
                    m.d.comb += do_number.eq(1)
                    m.next = "Idle"
            with m.State("Move"):
                m.d.comb += is_moving.eq(1)
                m.d.sync += settled.eq(0)
                with m.If(do_step & front.is_last):
                    m.next = "Settle"
            with m.State("Settle"):
                with m.If(row_scale.o.valid):
                    m.d.sync += settled.eq(settled + 1)
                # The last row entered the package one cycle before this state, and the mean is wanted one after it.
                with m.If(settled == Package.LATENCY - 2):
                    m.next = "Pack"
            with m.State("Pack"):
                m.d.comb += is_packing.eq(1)
                with m.If(do_write):
                    m.d.sync += [words_left.eq(words_left - 1), is_first_word.eq(0)]
                    m.next = "Move"
                    with m.If(words_left <= 1):
                        m.next = "Commit"
            with m.State("Commit"):
                m.d.comb += [row_scale.o.ready.eq(1), do_commit.eq(1)]
                for register, count in enumerate(self.token_counts):
                    with m.If(index == register):
                        m.d.sync += count.eq(next_live)
                m.next = "Idle"
            with m.State("Fault"):
                m.d.comb += self.fault.eq(1)
        return m
