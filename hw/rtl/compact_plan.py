"""What COMPACT does step by step: the decisions of SELECT become lanes, addresses and weights."""

from enum import IntEnum
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.config import AccelConfig
from hw.rtl.address_walk import WALK_WIDTH
from hw.rtl.ports import ADDRESS_WIDTH
from hw.rtl.selector import WEIGHT_BITS, WEIGHT_FRACTION_BITS, decision_write
from hw.rtl.tree import reduce_tree
from hw.timing import compact_rows

DECIDED = data.StructLayout({"is_kept": 1, "weight": WEIGHT_BITS})
"""What COMPACT needs of a decision."""


class StepKind(IntEnum):
    """What a step moves: rows of a channel word, nothing, or the package of a channel word."""

    ROWS = 0
    GAP = 1
    PACKAGE = 2


def plan_step(config: AccelConfig):
    """Return the layout of a step over up to R/2 source rows; row 0 is the package in a PACKAGE.

    is_upper: the rows are the upper half of their word; takes_word: no later step needs the word.
    is_last: the last rows of a channel word, or the last package of the command.
    weights: of each row in the package, 0 for a kept one.
    sources: for each lane, the row that goes there; here, beyond: the lanes that are written, at `address` and in the
    row tile after it. No lane is in both, and none of both is in the `beyond` of the step before.
    """
    rows = compact_rows(config)
    return data.StructLayout(
        {
            "kind": StepKind,
            "is_upper": 1,
            "takes_word": 1,
            "is_last": 1,
            "weights": data.ArrayLayout(WEIGHT_BITS, rows),
            "sources": data.ArrayLayout(range(max(rows, 2)), config.rows),
            "here": config.rows,
            "beyond": config.rows,
            "address": WALK_WIDTH,
        }
    )


class CompactPlan(wiring.Component):
    """Decision memory, and the steps of a COMPACT; the first one 3 cycles after the start, then 1 per cycle.

    Each channel word takes its rows, then a GAP, in which those that spilled into the next row tile can be written
    before the address moves elsewhere, then the PACKAGE of the channel word before, which had that long to be computed.
    The PACKAGE of the last channel word comes at the very end.

    Members
    -------
    decide : In(1), decision : In(decision_write) - from Select.
    start : In(1), base : In(16), words : In(16) - of the tensor.
    live : In, stride : In(16), is_weightless : In(1) - every pruned row weighs one. Stable until the last step.
    o : Out(stream of plan_step)
    """

    def __init__(self, config: AccelConfig):
        self._config, self._rows = config, compact_rows(config)
        super().__init__(
            {
                "decide": In(1),
                "decision": In(decision_write(config)),
                "start": In(1),
                "base": In(ADDRESS_WIDTH),
                "words": In(16),
                "live": In(range(config.max_tokens + 1)),
                "stride": In(ADDRESS_WIDTH),
                "is_weightless": In(1),
                "o": Out(stream.Signature(plan_step(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        judged = data.StructLayout(
            {
                "kind": StepKind,
                "is_upper": 1,
                "takes_word": 1,
                "is_last": 1,
                "ends_word": 1,
                "weights": data.ArrayLayout(WEIGHT_BITS, self._rows),
                "kept": self._rows,
            }
        )
        front, front_valid = Signal(judged, reset_less=True), Signal()
        is_running = Signal()
        do_advance = Signal()
        m.d.comb += do_advance.eq(~self.o.valid | self.o.ready)
        with m.If(do_advance):
            m.d.sync += [front_valid.eq(is_running), self.o.valid.eq(front_valid)]
        self._walk(m, is_running, do_advance, front)
        self._place(m, do_advance, front_valid, front)
        return m

    def _walk(self, m, is_running, do_advance, front):
        """Give the steps in order, each with the decisions about its rows."""
        rows, lanes = self._rows, self._config.rows
        m.submodules.decisions = memory = Memory(
            shape=data.ArrayLayout(DECIDED, lanes), depth=self._config.row_tiles, init=[]
        )
        write, read = memory.write_port(), memory.read_port(domain="comb")
        row_tile, is_upper = Signal(range(self._config.row_tiles), reset_less=True), Signal(reset_less=True)
        unplanned = Signal.like(self.live, reset_less=True)  # rows of this channel word
        words_left = Signal(16, reset_less=True)
        is_first_word, is_final = Signal(reset_less=True), Signal(reset_less=True)
        kind = Signal(StepKind, reset_less=True)
        is_last_word, ends_word, ends_rows = words_left <= 1, Signal(), unplanned <= rows
        m.d.comb += [write.en.eq(self.decide), write.addr.eq(self.decision.row_tile), read.addr.eq(row_tile)]
        for lane in range(lanes):
            decision = self.decision.decisions[lane]
            m.d.comb += [
                write.data[lane].is_kept.eq(decision.is_kept),
                write.data[lane].weight.eq(decision.score[WEIGHT_FRACTION_BITS:]),
            ]

        with m.If(self.start):
            m.d.sync += [
                is_running.eq(1),
                kind.eq(StepKind.ROWS),
                row_tile.eq(0),
                is_upper.eq(0),
                unplanned.eq(self.live),
                words_left.eq(self.words),
                is_first_word.eq(1),
                is_final.eq(0),
            ]
        with m.Elif(is_running & do_advance):
            with m.Switch(kind):
                with m.Case(StepKind.ROWS):
                    m.d.sync += [
                        unplanned.eq(unplanned - rows),
                        is_upper.eq(~is_upper),
                        row_tile.eq(row_tile + is_upper),
                    ]
                    with m.If(ends_rows):
                        m.d.sync += [unplanned.eq(self.live), is_upper.eq(0), row_tile.eq(0), kind.eq(StepKind.GAP)]
                with m.Case(StepKind.GAP):
                    m.d.comb += ends_word.eq(is_first_word & ~is_last_word)
                    m.d.sync += [kind.eq(StepKind.PACKAGE), is_final.eq(is_first_word)]
                with m.Case(StepKind.PACKAGE):
                    m.d.comb += ends_word.eq(~is_last_word)
                    m.d.sync += [is_final.eq(1), is_running.eq(~is_final)]
            with m.If(ends_word):
                m.d.sync += [
                    kind.eq(StepKind.ROWS),
                    words_left.eq(words_left - 1),
                    is_first_word.eq(0),
                    is_final.eq(0),
                ]

        decisions = data.View(data.ArrayLayout(DECIDED, 2 * rows), read.data)
        with m.If(do_advance):
            m.d.sync += [
                front.kind.eq(kind),
                front.is_upper.eq(is_upper),
                front.takes_word.eq(is_upper | ends_rows),
                front.is_last.eq(Mux(kind == StepKind.ROWS, ends_rows, is_final)),
                front.ends_word.eq(ends_word),
            ]
            for row in range(rows):
                decision = Signal(DECIDED, name=f"decision_{row}")
                is_live = (kind == StepKind.ROWS) & (row < unplanned)
                weight = Mux(self.is_weightless, 1, decision.weight)
                m.d.comb += decision.eq(Mux(is_upper, decisions[rows + row].as_value(), decisions[row].as_value()))
                m.d.sync += [
                    front.kept[row].eq(is_live & decision.is_kept),
                    front.weights[row].eq(Mux(is_live & ~decision.is_kept, weight, 0)),
                ]
            with m.If(kind == StepKind.PACKAGE):
                m.d.sync += front.kept.eq(1)

    def _place(self, m, do_advance, front_valid, front):
        """Say where the kept rows of each step go: to consecutive lanes, behind those of the step before."""
        rows, lanes = self._rows, self._config.rows
        position = Signal(range(lanes), reset_less=True)
        address, word_address = Signal(WALK_WIDTH, reset_less=True), Signal(WALK_WIDTH, reset_less=True)
        end = Signal(range(2 * lanes))
        step = self.o.payload
        m.d.comb += end.eq(position + sum(front.kept[row] for row in range(rows)))
        with m.If(self.start):
            m.d.sync += [position.eq(0), address.eq(self.base), word_address.eq(self.base)]
        with m.Elif(do_advance & front_valid):
            with m.If(front.kind == StepKind.ROWS):
                m.d.sync += position.eq(end)
                with m.If(end >= lanes):
                    m.d.sync += address.eq(address + self.stride)
            with m.If(front.ends_word):
                m.d.sync += [position.eq(0), address.eq(word_address + 1), word_address.eq(word_address + 1)]

        with m.If(do_advance):
            is_of_word_before = (front.kind == StepKind.PACKAGE) & ~front.is_last
            m.d.sync += [
                step.kind.eq(front.kind),
                step.is_upper.eq(front.is_upper),
                step.takes_word.eq(front.takes_word),
                step.is_last.eq(front.is_last),
                step.weights.eq(front.weights),
                step.address.eq(address - is_of_word_before),
            ]
            places = [position + sum(front.kept[:row]) for row in range(rows)]
            for lane in range(lanes):
                here = [front.kept[row] & (places[row] == lane) for row in range(rows)]
                beyond = [front.kept[row] & (places[row] == lane + lanes) for row in range(rows)]
                m.d.sync += [
                    step.here[lane].eq(Cat(here).any()),
                    step.beyond[lane].eq(Cat(beyond).any()),
                    step.sources[lane].eq(
                        reduce_tree(or_, [Mux(here[row] | beyond[row], row, 0) for row in range(rows)])
                    ),
                ]
