"""Output-stationary array of R token rows x C output channels x K dot-product depth."""

from amaranth.hdl import Cat, ClockSignal, Instance, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AccelConfig
from hw.rtl.delay import delay
from hw.rtl.packed_dot import (
    PACKED_WIDTH,
    Multiplier,
    PackedDot,
    expand_pair,
    operand_delays,
    pack_pair,
)
from hw.timing import CHAIN_MAX, array_latency, drain_width

ACC_WIDTH = 32

STEP = data.StructLayout({"valid": 1, "first": 1, "last": 1})
"""One multiply step: whether there is one, and whether it starts and ends an accumulation."""


class GemmColumn(wiring.Component):
    """One output channel of all R rows: packed dot products, accumulators and result registers.

    Control arrives one cycle before the dot products that it belongs to: each column registers its own copy, which
    keeps the fan-out of a control register inside one column.

    Members
    -------
    pairs : In - K operands of each of R/2 row pairs, skewed by operand_delays;  weights : In - K int8, skewed alike
    step : In(STEP)
    below : In(R x 32) - results of the column whose turn comes next; taken in every cycle without a capture
    results : Out(R x 32) - the accumulators of a finished tile in the cycle after its capture
    """

    def __init__(self, config: AccelConfig, multiplier: Multiplier):
        self._config, self._multiplier = config, multiplier
        operands = data.ArrayLayout(PACKED_WIDTH, config.depth)
        results = data.ArrayLayout(signed(ACC_WIDTH), config.rows)
        super().__init__(
            {
                "pairs": In(data.ArrayLayout(operands, config.rows // 2)),
                "weights": In(data.ArrayLayout(8, config.depth)),
                "step": In(STEP),
                "below": In(results),
                "results": Out(results),
            }
        )

    def elaborate(self, platform):
        m = Module()
        step = Signal(STEP, reset_less=True)
        is_captured = Signal(reset_less=True)
        m.d.sync += [step.eq(self.step), is_captured.eq(step.valid & step.last)]

        for pair in range(self._config.rows // 2):
            for offset, dot in enumerate(self._dot_products(m, pair)):
                row = 2 * pair + offset
                acc = Signal(signed(ACC_WIDTH), name=f"acc_{row}", reset_less=True)
                result = Signal(signed(ACC_WIDTH), name=f"result_{row}", reset_less=True)
                with m.If(step.valid):
                    m.d.sync += acc.eq(Mux(step.first, 0, acc) + dot)
                m.d.sync += result.eq(Mux(is_captured, acc, self.below[row]))
                m.d.comb += self.results[row].eq(result)
        return m

    def _dot_products(self, m, pair):
        """Return the dot products of the low and of the high row of a pair."""
        chains = []
        for start in range(0, self._config.depth, CHAIN_MAX):
            size = min(self._config.depth, CHAIN_MAX)
            m.submodules[f"dot_{pair}_{start}"] = dot = PackedDot(size, self._multiplier)
            for k in range(size):
                m.d.comb += [
                    dot.pairs[k].eq(self.pairs[pair][start + k]),
                    dot.weights[k].eq(self.weights[start + k]),
                ]
            chains.append(dot)
        if len(chains) == 1:
            return chains[0].low, chains[0].high
        sums = []
        for name in ("low", "high"):
            total = Signal(signed(20), name=f"{name}_{pair}", reset_less=True)
            m.d.sync += total.eq(sum(getattr(dot, name) for dot in chains))
            sums.append(total)
        return sums


class GemmArray(wiring.Component):
    """The MAC array: one step (all R lanes x K depth, all C columns) per cycle, never stalled.

    array_latency after a last step, `sums` holds columns 0..G-1 of all lanes, G = drain_width, and is_first is set;
    the next G columns follow in each of the next C/G - 1 cycles. Two last steps must be at least C/G cycles apart.

    Members
    -------
    act : In(ACT word);  weight : In(WEIGHT word);  step : In(STEP) - all in the same cycle
    sums : Out(R lanes x G columns of signed(32));  is_first : Out(1)
    """

    def __init__(self, config: AccelConfig, multiplier: Multiplier, column_module: str | None = None):
        """Take the name of a Verilog module that is generated separately from GemmColumn, or elaborate C columns."""
        self._config, self._multiplier, self._column_module = config, multiplier, column_module
        self._width = drain_width(config)
        lane = data.ArrayLayout(signed(ACC_WIDTH), self._width)
        super().__init__(
            {
                "act": In(data.ArrayLayout(data.ArrayLayout(signed(8), config.depth), config.rows)),
                "weight": In(data.ArrayLayout(data.ArrayLayout(8, config.depth), config.columns)),
                "step": In(STEP),
                "sums": Out(data.ArrayLayout(lane, config.rows)),
                "is_first": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        operands = [self._skewed(m, position) for position in range(config.depth)]

        # One more register of control sits in each column; the array's own copy of it makes is_first.
        dot_cycles = array_latency(config) - 3
        step = delay(m, self.step, dot_cycles, name="step", reset_less=False)
        is_last = delay(m, step.valid & step.last, 3, name="is_last", reset_less=False)
        m.d.comb += self.is_first.eq(is_last)

        # (R/2, K) packed operands, the same for every column.
        pairs = Signal(PACKED_WIDTH * config.rows // 2 * config.depth)
        m.d.comb += pairs.eq(
            Cat(
                expand_pair(parts[17 * pair : 17 * pair + 8], parts[17 * pair + 8 : 17 * pair + 17])
                for pair in range(config.rows // 2)
                for parts, _ in operands
            )
        )
        columns = []
        for c in range(config.columns):
            weights = Cat(weights[8 * c : 8 * c + 8] for _, weights in operands)
            columns.append(self._column(m, c, pairs, weights, step))
        for c, (below, results) in enumerate(columns):
            if c + self._width < config.columns:
                m.d.comb += below.eq(columns[c + self._width][1])
            if c < self._width:
                m.d.comb += [
                    self.sums[row][c].eq(results[ACC_WIDTH * row : ACC_WIDTH * (row + 1)]) for row in range(config.rows)
                ]
        return m

    def _skewed(self, m, position):
        """Return depth position `position` of all lanes (17 bits a row pair) and all columns, in its skewed cycle."""
        pairs = [
            Cat(pack_pair(self.act[row][position], self.act[row + 1][position]))
            for row in range(0, self._config.rows, 2)
        ]
        weights = [column[position] for column in self.weight]
        cycles = operand_delays(self._multiplier, min(self._config.depth, CHAIN_MAX))[position % CHAIN_MAX]
        return (
            delay(m, Cat(pairs), 1 + cycles, name=f"pairs_{position}"),
            delay(m, Cat(weights), 1 + cycles, name=f"weights_{position}"),
        )

    def _column(self, m, c, pairs, weights, step):
        """Add column c; return the signals of its `below` and `results` ports."""
        width = ACC_WIDTH * self._config.rows
        below, results = Signal(width, name=f"below_{c}"), Signal(width, name=f"results_{c}")
        if self._column_module is not None:
            m.submodules[f"column_{c}"] = Instance(
                self._column_module,
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_pairs=pairs,
                i_weights=weights,
                i_step=step.as_value(),
                i_below=below,
                o_results=results,
            )
            return below, results
        m.submodules[f"column_{c}"] = column = GemmColumn(self._config, self._multiplier)
        m.d.comb += [
            column.pairs.eq(pairs),
            column.weights.eq(weights),
            column.step.eq(step),
            column.below.eq(below),
            results.eq(column.results),
        ]
        return below, results
