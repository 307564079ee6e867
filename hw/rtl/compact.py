"""BEGIN and COMPACT engine: it owns the live token count, the token list and the package."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Opcode
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.rtl.address_walk import WALK_WIDTH, AddressWalk
from hw.rtl.compact_plan import CompactPlan, StepKind
from hw.rtl.package import Package
from hw.rtl.packed_dot import Multiplier
from hw.rtl.ports import descriptor_layout, token_read
from hw.rtl.row_router import RowRouter, routed_rows
from hw.rtl.row_scale import RowScale
from hw.rtl.selector import WEIGHT_BITS, decision_write, verdict_layout
from hw.rtl.token_list import TokenList
from hw.rtl.write_queue import walk_write_layout
from hw.timing import compact_rows

PACKAGE_MULT, PACKAGE_SHIFT = 1 << 15, 15
"""The constants that quant.approx.package_token hands to row_scale: a plain division."""


class Compact(wiring.Component):
    """BEGIN and COMPACT. Golden: the selection rule of docs/architecture.md and quant.approx.package_token.

    COMPACT takes a step of one cycle for half a row tile of each channel word, and two more steps per channel word;
    hw.unit_cycles has the cycles. If nothing leaves it takes two. It works in place: channel word by channel word it
    reads each row tile once, in order, and writes token t to t' <= t, so a write only meets lanes of row tiles that
    have been read as a whole. The package of a channel word follows the rows of the next one. However long a read takes
    or waits, none can be overtaken by a write it needs.

    Members
    -------
    command : In(stream of descriptor_layout) - taken when idle.
    done : Out(1) - after the last write;  fault : Out(1) - BEGIN with more than max_tokens rows or COMPACT into a
        register that does not exist; frozen until reset.
    tokens : Out(pictures x u16) - the live tokens of each picture, 0 after reset;  packages : Out(pictures) - and which
        of them end with a package token.
    picture : In - stable from the command to done;  live : Out, has_package : Out(1) - its live tokens, and whether a
        package is the last of them.
    token_counts : Out(registers x u16) - live after each COMPACT, by its index.
    decide, decision, verdict : In - from Select.
    wide_addresses : Out(address stream);  wide_words : In(word stream);  wide_writes : Out(unchecked writes)
    token : In(read port of the token list, seen from the reader)
    """

    def __init__(self, config: AccelConfig, multiplier: Multiplier = Multiplier.BEHAVIOURAL):
        self._config, self._multiplier = config, multiplier
        super().__init__(
            {
                "command": In(stream.Signature(descriptor_layout)),
                "done": Out(1),
                "fault": Out(1),
                "picture": In(range(config.pictures)),
                "tokens": Out(data.ArrayLayout(16, config.pictures)),
                "packages": Out(config.pictures),
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
        m.submodules.tokens = tokens = TokenList(self._config)
        connect(m, tokens.port, flipped(self.token))

        # Command
        command = self.command.payload
        do_start = self.command.valid & self.command.ready
        is_begin = command.opcode == Opcode.BEGIN
        is_merging = self.verdict.pruned != 0
        is_outside = Mux(is_begin, command.rows > self._config.max_tokens, command.index >= NUM_TOKEN_REGISTERS)
        do_merge, do_number, do_commit = Signal(), Signal(), Signal()
        index = Signal(16, reset_less=True)
        rows, next_live = Signal.like(self.live, reset_less=True), Signal.like(self.live)
        m.d.comb += [
            do_merge.eq(do_start & ~is_begin & is_merging & ~is_outside),
            tokens.decide.eq(self.decide),
            tokens.decision.eq(self.decision),
            tokens.number.eq(do_start & is_begin & ~is_outside),
            tokens.compact.eq(do_merge),
            tokens.count.eq(Mux(is_begin, command.rows, self.live)),
            tokens.picture.eq(self.picture),
            next_live.eq(Mux(do_number, rows, self.live - self.verdict.pruned + is_merging)),
        ]
        is_moving = Signal()
        self._move(m, do_merge, do_commit, is_moving)

        # What outlives a command: the live tokens and the package of each picture, the counts, and the token lists.
        m.d.comb += [
            self.live.eq(self.tokens[self.picture]),
            self.has_package.eq(self.packages.bit_select(self.picture, 1)),
        ]
        m.d.sync += self.done.eq(do_number | do_commit)  # registered, so that live is new when done is seen
        with m.If(do_number | do_commit):
            m.d.sync += [
                self.tokens[self.picture].eq(next_live),
                self.packages.bit_select(self.picture, 1).eq(do_commit & is_merging),
            ]

        # Control
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(do_start):
                    m.d.sync += [index.eq(command.index), rows.eq(command.rows)]
                    with m.If(is_outside):
                        m.next = "Fault"
                    with m.Elif(is_begin):
                        m.next = "Number"
                    with m.Else():
                        m.next = "Commit"
                        with m.If(is_merging):
                            m.next = "Move"
            with m.State("Number"):
                with m.If(tokens.is_last):
                    m.d.comb += do_number.eq(1)
                    m.next = "Idle"
            with m.State("Move"):
                with m.If(~is_moving & ~tokens.is_busy):
                    m.next = "Commit"
            with m.State("Commit"):
                m.d.comb += do_commit.eq(1)
                for register, count in enumerate(self.token_counts):
                    with m.If(index == register):
                        m.d.sync += count.eq(next_live)
                m.next = "Idle"
            with m.State("Fault"):
                m.d.comb += self.fault.eq(1)
        return m

    def _move(self, m, do_merge, do_commit, is_moving):
        """Execute the steps of the plan on the channel words, and pack the pruned rows."""
        config = self._config
        num_rows = compact_rows(config)
        command = self.command.payload
        m.submodules.wide_walk = wide_walk = AddressWalk()
        m.submodules.plan = plan = CompactPlan(config)
        m.submodules.package = package = Package(config, self._multiplier)
        m.submodules.row_scale = row_scale = RowScale(1)
        m.submodules.router = router = RowRouter(config)
        connect(m, wide_walk.o, flipped(self.wide_addresses))
        connect(m, router.writes, flipped(self.wide_writes))

        # Start: the reads, the plan and the division of the package
        stride, is_weightless = Signal(16, reset_less=True), self.verdict.weight_sum == 0
        with m.If(do_merge):
            m.d.sync += stride.eq(command.src_stride)
        m.d.comb += [
            wide_walk.i.valid.eq(do_merge),
            wide_walk.i.payload.base.eq(command.src_base),
            wide_walk.i.payload.inner_step.eq(command.src_stride),
            wide_walk.i.payload.inner_count.eq((self.live + config.rows - 1) // config.rows),
            wide_walk.i.payload.outer_step.eq(1),
            wide_walk.i.payload.outer_count.eq(command.src_words),
            plan.decide.eq(self.decide),
            plan.decision.eq(self.decision),
            plan.start.eq(do_merge),
            plan.base.eq(command.src_base),
            plan.words.eq(command.src_words),
            plan.live.eq(self.live),
            plan.stride.eq(stride),
            plan.is_weightless.eq(is_weightless),
            router.stride.eq(stride),
            row_scale.i.valid.eq(do_merge),
            row_scale.i.payload.sums[0].eq(Mux(is_weightless, self.verdict.pruned, self.verdict.weight_sum)),
            row_scale.i.payload.mult.eq(PACKAGE_MULT),
            row_scale.i.payload.shift.eq(PACKAGE_SHIFT),
            row_scale.o.ready.eq(do_commit),
            package.is_scaled.eq(row_scale.o.valid),
            package.mult.eq(row_scale.o.payload[0].mult),
            package.shift.eq(row_scale.o.payload[0].shift),
        ]

        # Take a step: rows need their word, and the last ones a package unit that is done with the word before
        step = plan.o.payload
        is_rows, is_package = step.kind == StepKind.ROWS, step.kind == StepKind.PACKAGE
        held_valid, do_take = Signal(), Signal()
        held = Signal(routed_rows(config), reset_less=True)
        weights = Signal(data.ArrayLayout(WEIGHT_BITS, num_rows), reset_less=True)
        holds_rows, holds_last_rows = Signal(reset_less=True), Signal(reset_less=True)
        has_input = Signal()
        with m.Switch(step.kind):
            with m.Case(StepKind.ROWS):
                m.d.comb += has_input.eq(self.wide_words.valid & ~(step.is_last & package.is_busy))
            with m.Case(StepKind.GAP):
                m.d.comb += has_input.eq(1)
            with m.Case(StepKind.PACKAGE):
                m.d.comb += has_input.eq(package.is_ready)
        m.d.comb += [
            do_take.eq(plan.o.valid & has_input & (~held_valid | router.i.ready)),
            plan.o.ready.eq(has_input & (~held_valid | router.i.ready)),
            self.wide_words.ready.eq(do_take & is_rows & step.takes_word),
            package.take.eq(do_take & is_package),
        ]
        half = self.wide_words.payload.word_select(step.is_upper, 4 * config.wide_bytes)
        with m.If(do_take):
            m.d.sync += [
                held.rows.eq(half),
                held.sources.eq(step.sources),
                held.here.eq(step.here),
                held.beyond.eq(step.beyond),
                held.address.eq(step.address),
                weights.eq(step.weights),
                holds_rows.eq(is_rows),
                holds_last_rows.eq(step.is_last),
            ]
            with m.If(is_package):
                m.d.sync += held.rows[0].eq(package.mean)
        with m.If(do_take | router.i.ready):
            m.d.sync += held_valid.eq(do_take)

        # Hand it on
        m.d.comb += [
            router.i.valid.eq(held_valid),
            router.i.payload.eq(held),
            package.step.eq(held_valid & router.i.ready & holds_rows),
            package.is_last.eq(holds_last_rows),
            package.rows.eq(held.rows),
            package.weights.eq(weights),
        ]
        takes_last_package = do_take & is_package & step.is_last
        is_planned = Signal()  # from the start until the last package is taken
        m.d.comb += is_moving.eq(is_planned | held_valid | ~router.is_empty)
        with m.If(do_merge):
            m.d.sync += is_planned.eq(1)
        with m.Elif(takes_last_package):
            m.d.sync += is_planned.eq(0)
