"""GEMM drain: turns accumulators into output words and writes them."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Drain
from hw.rtl.delay import delay
from hw.rtl.drain_element import DrainElement
from hw.rtl.gemm_array import ACC_WIDTH
from hw.rtl.joint_read import JointRead
from hw.rtl.ports import (
    PARAM_ENTRY,
    ROW_SCALE_ENTRY,
    act_write,
    descriptor_layout,
    param_read,
    row_scale_read,
    wide_read,
    wide_write,
)
from hw.rtl.stream import Fifo
from hw.rtl.word_walk import WordWalk
from hw.timing import ELEMENT_LATENCY, RESIDUAL_CYCLES, words_in_flight

CONSTANTS = data.StructLayout({"bias": signed(32), "mult": 16, "shift": 6})
"""Bias and scale of one column, or in mode ROW_SCALE of one row."""

PARAM_MODES = (Drain.INT8, Drain.GELU, Drain.SIGMOID, Drain.RESIDUAL, Drain.WIDE)
WIDE_MODES = (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE)


class DrainUnit(wiring.Component):
    """R x K elements per cycle from accumulators to ACT or WIDE, in every mode of hw.isa.Drain.

    Nothing between `sums` and the queue in front of the write port can stall. So the constants of a word are read
    ahead, and with the read a place in that queue is reserved; `num_ready` counts the words for which both are
    certain. Who feeds the array takes the words of a tile from that number before its last step enters the array.

    Members
    -------
    start : In(1);  descriptor : In(descriptor_layout), row_tiles : In(16), words : In(16) - stable until is_idle
    sums, is_first : In - as from GemmArray
    num_ready : Out - words that may be taken;  num_taken : In - words taken in this cycle
    param, wide_read, row_scale, act_write, wide_write : ports
    is_idle : Out(1) - every word of the command has been written
    fault : Out(1) - an address left its memory; the unit freezes until reset.
    """

    def __init__(self, config: AccelConfig, element_module: str | None = None):
        """Take the name of a Verilog module generated separately from DrainElement, or elaborate R * K elements."""
        self._config, self._element_module = config, element_module
        lane = data.ArrayLayout(signed(ACC_WIDTH), config.depth)
        self._lanes = data.ArrayLayout(data.ArrayLayout(signed(16), config.depth), config.rows)
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(descriptor_layout),
                "row_tiles": In(16),
                "words": In(16),
                "sums": In(data.ArrayLayout(lane, config.rows)),
                "is_first": In(1),
                "num_ready": Out(range(words_in_flight(config) + 1)),
                "num_taken": In(range(config.columns // config.depth + 1)),
                "param": Out(param_read(config)),
                "wide_read": Out(wide_read(config)),
                "row_scale": Out(row_scale_read(config)),
                "act_write": Out(act_write(config)),
                "wide_write": Out(wide_write(config)),
                "is_idle": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = words_in_flight(self._config)
        mode = Signal(Drain)
        is_wide = Signal()
        m.d.comb += [mode.eq(self.descriptor.mode), is_wide.eq(_is_one_of(mode, WIDE_MODES))]

        m.submodules.constants = constants = Fifo(data.ArrayLayout(CONSTANTS, self._config.depth), depth)
        m.submodules.residuals = residuals = Fifo(self._lanes, depth)
        m.submodules.results = results = Fifo(self._lanes, depth)
        m.submodules.fetch = fetch = self._walk(m)
        m.submodules.target = target = self._walk(m)

        num_in_flight = Signal(range(depth + 1))
        do_fetch = self._read_ahead(m, mode, is_wide, fetch, num_in_flight != depth, constants, residuals)
        self._compute(m, mode, constants, residuals, results)
        do_write = self._write(m, is_wide, target, results)
        m.d.sync += num_in_flight.eq(num_in_flight + do_fetch - do_write)
        m.d.comb += self.is_idle.eq(~fetch.is_active & (num_in_flight == 0))
        return m

    def _read_ahead(self, m, mode, is_wide, fetch, has_place, constants, residuals):
        """Read the constants and residuals of every word of `fetch`; return the event of a word's read."""
        config = self._config
        m.submodules.reads = reads = JointRead(
            {
                "param": (8 * config.param_bytes, config.param_words),
                "wide_read": (8 * config.wide_bytes, config.wide_words),
                "row_scale": (ROW_SCALE_ENTRY.size * config.rows, config.row_scale_words),
            }
        )
        for name in ("param", "wide_read", "row_scale"):
            connect(m, getattr(reads, name), flipped(getattr(self, name)))

        # The address that the word will be written to is checked here, before anything of it is computed.
        is_beyond = fetch.address >= Mux(is_wide, config.wide_words, config.act_words)
        is_target_fault = Signal()
        with m.If(fetch.is_active & is_beyond):
            m.d.sync += is_target_fault.eq(1)
        do_fetch = reads.i.valid & reads.i.ready
        enable = Cat(_is_one_of(mode, PARAM_MODES), mode == Drain.RESIDUAL, mode == Drain.ROW_SCALE)
        m.d.comb += [
            reads.i.valid.eq(fetch.is_active & has_place & ~is_beyond),
            reads.i.payload.param.eq(self.descriptor.param_base + fetch.word),
            reads.i.payload.wide_read.eq(fetch.address),
            reads.i.payload.row_scale.eq(self.descriptor.row_base + fetch.row),
            reads.i.payload.enable.eq(enable),
            fetch.next.eq(do_fetch),
            constants.i.valid.eq(reads.valid),
            constants.i.payload.eq(self._constants(reads.words, mode)),
            residuals.i.valid.eq(reads.valid & (mode == Drain.RESIDUAL)),
            residuals.i.payload.eq(reads.words.wide_read),
            self.fault.eq(reads.fault | is_target_fault),
        ]
        m.d.sync += self.num_ready.eq(self.num_ready + reads.is_retired - self.num_taken)
        return do_fetch

    def _compute(self, m, mode, constants, residuals, results):
        """Send each word of `sums` with its constants through the elements into `results`."""
        is_word_after = self._time_words(m, mode)
        m.d.comb += [
            constants.o.ready.eq(is_word_after[0]),
            residuals.o.ready.eq(is_word_after[RESIDUAL_CYCLES] & (mode == Drain.RESIDUAL)),
        ]
        with m.Switch(mode):
            for each, cycles in ELEMENT_LATENCY.items():
                with m.Case(each):
                    m.d.comb += results.i.valid.eq(is_word_after[cycles])
        for row in range(self._config.rows):
            for k in range(self._config.depth):
                own, of_row = constants.o.payload[k], constants.o.payload[row]
                inputs = {
                    "acc": self.sums[row][k],
                    "bias": own.bias,
                    "mult": Mux(mode == Drain.ROW_SCALE, of_row.mult, own.mult),
                    "shift": Mux(mode == Drain.ROW_SCALE, of_row.shift, own.shift),
                    "residual": residuals.o.payload[row][k],
                    "mode": mode,
                    "one": self.descriptor.one,
                    "curve": self.descriptor.curve,
                    "out_mult": self.descriptor.mult,
                    "out_shift": self.descriptor.shift[:6],
                }
                m.d.comb += results.i.payload[row][k].eq(self._element(m, f"element_{row}_{k}", inputs))

    def _time_words(self, m, mode):
        """Return for each number of cycles whether a word entered the elements that long ago and is still in them."""
        tile_words = self._config.columns // self._config.depth
        # The words of a tile leave the array in consecutive cycles; the last tile of a row may have fewer of them.
        num_left = Signal(range(tile_words))
        column_word = Signal(16)
        is_word = self.is_first | (num_left != 0)
        with m.If(is_word):
            with m.If(column_word == self.words - 1):
                m.d.sync += [column_word.eq(0), num_left.eq(0)]
            with m.Else():
                m.d.sync += column_word.eq(column_word + 1)
                m.d.sync += num_left.eq(Mux(self.is_first, tile_words - 1, num_left - 1))

        is_word_after = [is_word]
        for cycles in range(max(ELEMENT_LATENCY.values())):
            # A result leaves this line when it is ready, so that it cannot show up again in a later command's mode.
            has_left = _is_one_of(mode, [each for each in Drain if ELEMENT_LATENCY[each] == cycles])
            remains = is_word_after[cycles] & ~has_left
            is_word_after.append(delay(m, remains, 1, name=f"is_word_{cycles}", reset_less=False))
        return is_word_after

    def _write(self, m, is_wide, target, results):
        """Write each word of `results` to the next address of `target`; return the event of a word's write."""
        word = results.o.payload
        for port, is_target, bits in ((self.act_write, ~is_wide, 8), (self.wide_write, is_wide, 16)):
            fields = [word[row][k][:bits] for row in range(self._config.rows) for k in range(self._config.depth)]
            m.d.comb += [
                port.request.valid.eq(results.o.valid & is_target),
                port.request.payload.address.eq(target.address),
                port.request.payload.data.eq(Cat(fields)),
                port.request.payload.enable.eq(~0),
            ]
        do_write = results.o.valid & results.o.ready
        m.d.comb += [
            results.o.ready.eq(Mux(is_wide, self.wide_write.request.ready, self.act_write.request.ready)),
            target.next.eq(do_write),
        ]
        return do_write

    def _walk(self, m):
        """Return a walk over the output words of the command."""
        walk = WordWalk()
        m.d.comb += [
            walk.base.eq(self.descriptor.dst_base),
            walk.stride.eq(self.descriptor.dst_stride),
            walk.words.eq(self.words),
            walk.row_tiles.eq(self.row_tiles),
            walk.start.eq(self.start),
        ]
        return walk

    def _constants(self, words, mode):
        """Return the K constants of a word: of its columns, of its rows (the first R of K), or of the command."""
        rows = data.View(data.ArrayLayout(ROW_SCALE_ENTRY, self._config.rows), words.row_scale)
        params = data.View(data.ArrayLayout(PARAM_ENTRY, self._config.depth), words.param)
        entries = []
        for k in range(self._config.depth):
            row, param = rows[k % self._config.rows], params[k]
            from_param = Cat(param.bias, param.mult, param.shift)
            from_row = Cat(Const(0, 32), row.mult, row.shift)
            from_command = Cat(Const(0, 32), self.descriptor.mult, self.descriptor.shift[:6])
            entries.append(Mux(mode == Drain.ROW_SCALE, from_row, Mux(mode == Drain.SCORE, from_command, from_param)))
        return Cat(entries)

    def _element(self, m, name, inputs):
        """Add an element; return its result."""
        if self._element_module is None:
            m.submodules[name] = element = DrainElement()
            m.d.comb += [getattr(element, port).eq(value) for port, value in inputs.items()]
            return element.o
        o = Signal(signed(16), name=name)
        m.submodules[name] = Instance(
            self._element_module,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            o_o=o,
            **{f"i_{port}": value for port, value in inputs.items()},
        )
        return o


def _is_one_of(mode, modes):
    return Cat(mode == each for each in modes).any()
