"""SELECT engine: keep scores, the decision of every live token and the weight of the next package."""

from operator import add

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.rtl.address_walk import WALK_WIDTH, AddressWalk
from hw.rtl.delay import delay
from hw.rtl.divide import Divide
from hw.rtl.ports import descriptor_layout
from hw.rtl.row_scale import SUM_BITS
from hw.rtl.tree import reduce_tree
from quant.layers import CLS_SCORE

WEIGHT_FRACTION_BITS = 8
WEIGHT_BITS = 16 - WEIGHT_FRACTION_BITS
"""The weight of a token in the package is its score without the fraction bits."""

DECISION = data.StructLayout({"is_kept": 1, "score": 16})
"""What SELECT decided about one token; meaningless beyond live."""

QUOTIENT_BITS_PER_CYCLE = 2
"""A row tile of few heads would wait for a slower division."""

verdict_layout = data.StructLayout({"pruned": 9, "weight_sum": SUM_BITS})
"""Tokens that leave, a former package included, and the sum of their weights."""


def decision_write(config: AccelConfig):
    """Return the layout of a write of the decisions of one row tile; the decision memory never stalls."""
    return data.StructLayout(
        {"row_tile": range(config.row_tiles), "decisions": data.ArrayLayout(DECISION, config.rows)}
    )


class Select(wiring.Component):
    """SELECT. Golden: quant.approx.keep_scores and the selection rule of docs/architecture.md.

    All lanes together take one head per cycle, so that a lane needs one multiplier. The sums of a row tile grow beside
    the division of the one before; hw.unit_cycles has the cycles.

    Members
    -------
    command : In(stream of descriptor_layout) - taken when idle;  done : Out(1) - after the last decision.
    live : In - the live token count;  has_package : In(1) - the last live token is a package.
    act_addresses : Out(address stream);  act_words : In(word stream)
    decide : Out(1), decision : Out(decision_write) - a write into the decision memory.
    verdict : Out(verdict_layout) - of the last command.
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                "command": In(stream.Signature(descriptor_layout)),
                "done": Out(1),
                "live": In(range(config.max_tokens + 1)),
                "has_package": In(1),
                "act_addresses": Out(stream.Signature(WALK_WIDTH)),
                "act_words": In(stream.Signature(8 * config.act_bytes)),
                "decide": Out(1),
                "decision": Out(decision_write(config)),
                "verdict": Out(verdict_layout),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, depth = self._config.rows, self._config.depth
        m.submodules.divide = divide = Divide(lanes, QUOTIENT_BITS_PER_CYCLE)

        # Command
        command = self.command.payload
        do_start = self.command.valid & self.command.ready
        heads, threshold = Signal(8, reset_less=True), Signal(16, reset_less=True)
        words, tiles = Signal(8), Signal(9)
        tiles_left = Signal.like(tiles, reset_less=True)  # to be summed
        row_tile, last_tile = Signal(8, reset_less=True), Signal(8, reset_less=True)
        m.d.comb += [words.eq((command.heads + depth - 1) // depth), tiles.eq((self.live + lanes - 1) // lanes)]
        with m.If(do_start):
            m.d.sync += [
                heads.eq(command.heads),
                threshold.eq(command.threshold),
                tiles_left.eq(tiles),
                row_tile.eq(0),
                last_tile.eq(tiles - 1),
            ]
        self._read(m, do_start, words, tiles)

        # Sums of a row tile, head by head, beside the division of the tile before. Words come in pairs, the token
        # scores and then the head scores of the same heads.
        is_head_word = Signal()
        position, heads_left = Signal(range(depth)), Signal(8, reset_less=True)
        take_token, take_head, is_last_head = Signal(), Signal(), Signal()
        is_summing = Signal(2)  # a head is two cycles on its way to the sums
        m.d.comb += is_last_head.eq(heads_left <= 1)
        m.d.sync += is_summing.eq(Cat(take_head, is_summing))
        with m.FSM():
            with m.State("Idle"):
                m.d.sync += heads_left.eq(command.heads)
                with m.If(do_start):
                    m.next = "Sum"
            with m.State("Sum"):
                m.d.comb += [
                    take_token.eq(self.act_words.valid & ~is_head_word),
                    take_head.eq(self.act_words.valid & is_head_word),
                    self.act_words.ready.eq(~is_head_word | is_last_head | (position == depth - 1)),
                ]
                with m.If(take_head):
                    m.d.sync += [position.eq(position + 1), heads_left.eq(heads_left - 1)]
                with m.If(take_head & is_last_head):
                    m.d.sync += position.eq(0)
                    m.next = "Settle"
                with m.If(self.act_words.valid & self.act_words.ready):
                    m.d.sync += is_head_word.eq(~is_head_word)
            with m.State("Settle"):
                m.d.comb += divide.i.valid.eq(is_summing == 0)
                m.d.sync += heads_left.eq(heads)
                with m.If(divide.i.valid & divide.i.ready):
                    m.d.sync += tiles_left.eq(tiles_left - 1)
                    m.next = "Sum"
                    with m.If(tiles_left == 1):
                        m.next = "Idle"

        # Decisions, as the quotients come
        is_judged = Signal()
        m.d.comb += [divide.o.ready.eq(1), self.decide.eq(divide.o.valid)]
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(do_start):
                    m.next = "Decide"
            with m.State("Decide"):
                with m.If(self.decide):
                    m.d.sync += row_tile.eq(row_tile + 1)
                    with m.If(row_tile == last_tile):
                        m.next = "Judge"
            with m.State("Judge"):
                # The verdict trails the last decision by two registers.
                m.d.sync += is_judged.eq(1)
                with m.If(is_judged):
                    m.d.sync += is_judged.eq(0)
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"

        self._sum(m, take_token, take_head, position, is_summing, heads, divide)
        self._decide(m, do_start, threshold, row_tile, row_tile == last_tile, divide)
        return m

    def _read(self, m, do_start, words, tiles):
        """Alternate between the token-score walk and the head-score walk."""
        command = self.command.payload
        m.submodules.token_walk = token_walk = AddressWalk()
        m.submodules.head_walk = head_walk = AddressWalk()
        for walk, base, stride in (
            (token_walk, command.src_base, command.src_stride),
            (head_walk, command.aux_base, command.aux_stride),
        ):
            m.d.comb += [
                walk.i.valid.eq(do_start),
                walk.i.payload.base.eq(base),
                walk.i.payload.inner_step.eq(1),
                walk.i.payload.inner_count.eq(words),
                walk.i.payload.outer_step.eq(stride),
                walk.i.payload.outer_count.eq(tiles),
            ]
        is_head_turn = Signal()
        with m.If(self.act_addresses.valid & self.act_addresses.ready):
            m.d.sync += is_head_turn.eq(~is_head_turn)
        with m.If(is_head_turn):
            connect(m, head_walk.o, flipped(self.act_addresses))
        with m.Else():
            connect(m, token_walk.o, flipped(self.act_addresses))

    def _sum(self, m, take_token, take_head, position, is_summing, heads, divide):
        """Sum t*a, a and t over the heads of each lane; what is divided depends on whether sum(a) is zero."""
        lanes, lane_bits = self._config.rows, 8 * self._config.depth
        token_word = Signal(lanes * lane_bits, reset_less=True)
        with m.If(take_token):
            m.d.sync += token_word.eq(self.act_words.payload)
        is_fresh = Signal(init=1)  # the next head is the first of its row tile
        with m.If(is_summing[1]):
            m.d.sync += is_fresh.eq(0)
        with m.If(divide.i.valid):
            m.d.sync += is_fresh.eq(1)
        for lane in range(lanes):
            token = Signal(8, name=f"token_{lane}", reset_less=True)
            head = Signal(8, name=f"head_{lane}", reset_less=True)
            product = Signal(16, name=f"product_{lane}", reset_less=True)
            with m.If(take_head):
                m.d.sync += [
                    token.eq(token_word.word_select(lane, lane_bits).word_select(position, 8)),
                    head.eq(self.act_words.payload.word_select(lane, lane_bits).word_select(position, 8)),
                ]
            m.d.sync += product.eq(token * head)
            totals = []
            for term, width, name in ((product, 24, "products"), (token, 16, "tokens"), (head, 16, "heads")):
                total = Signal(width, name=f"total_{name}_{lane}", reset_less=True)
                if term is not product:
                    term = delay(m, term, 1, name=f"{name}_{lane}")
                with m.If(is_summing[1]):
                    m.d.sync += total.eq(term + Mux(is_fresh, 0, total))
                totals.append(total)
            weighted, unweighted, importance = totals
            # The score has 16 bits: the dividend is the sum with 8 more fraction bits, split at 2**16.
            dividend = Cat(Const(0, 8), Mux(importance == 0, unweighted, weighted))
            job = divide.i.payload[lane]
            m.d.comb += [
                Cat(job.low, job.high).eq(dividend),
                job.divisor.eq(Mux(importance == 0, heads, importance)),
            ]

    def _decide(self, m, do_start, threshold, row_tile, is_last_tile, divide):
        """Apply the selection rule lane by lane and count what leaves."""
        lanes = self._config.rows
        pruned, weights = [], []
        last_lane = Signal(range(lanes))  # the last live token, in the last row tile
        m.d.comb += [self.decision.row_tile.eq(row_tile), last_lane.eq(self.live - 1)]
        for lane in range(lanes):
            is_package, is_kept = Signal(name=f"is_package_{lane}"), Signal(name=f"is_kept_{lane}")
            score = divide.o.payload[lane]
            is_cls = (row_tile == 0) if lane == 0 else 0
            m.d.comb += [
                is_package.eq(self.has_package & is_last_tile & (last_lane == lane)),
                is_kept.eq(is_cls | (~is_package & (score >= threshold))),
                self.decision.decisions[lane].is_kept.eq(is_kept),
                self.decision.decisions[lane].score.eq(Mux(is_cls, CLS_SCORE, score)),
            ]
            is_pruned = Signal(name=f"is_pruned_{lane}", reset_less=True)
            weight = Signal(WEIGHT_BITS, name=f"weight_{lane}", reset_less=True)
            is_leaving = ~is_kept & (~is_last_tile | (last_lane >= lane))
            m.d.sync += [
                is_pruned.eq(is_leaving),
                weight.eq(Mux(is_leaving, score[WEIGHT_FRACTION_BITS:], 0)),
            ]
            pruned.append(is_pruned)
            weights.append(weight)
        is_counted = delay(m, self.decide, 1, name="is_counted", reset_less=False)
        with m.If(do_start):
            m.d.sync += self.verdict.eq(0)
        with m.Elif(is_counted):
            m.d.sync += [
                self.verdict.pruned.eq(self.verdict.pruned + reduce_tree(add, pruned)),
                self.verdict.weight_sum.eq(self.verdict.weight_sum + reduce_tree(add, weights)),
            ]
