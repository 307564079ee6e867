"""GEMM drain: turns accumulators into output words and writes them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Drain
from hw.rtl.activation import Activation
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
from hw.rtl.repeat import place
from hw.rtl.stream import Fifo
from hw.rtl.word_parts import Gather, select_part
from hw.rtl.word_walk import WordWalk
from hw.timing import ELEMENT_CYCLES, RESIDUAL_CYCLES, drain_width, words_in_flight

CONSTANTS = data.StructLayout({"bias": signed(32), "mult": 16, "shift": 6})
"""Bias and scale of one column, or in mode ROW_SCALE of one row."""

PARAM_MODES = (Drain.INT8, Drain.GELU, Drain.SIGMOID, Drain.RESIDUAL, Drain.WIDE)
WIDE_MODES = (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE)
ACTIVATION_MODES = (Drain.GELU, Drain.SIGMOID)


class DrainUnit(wiring.Component):
    """Accumulators to ACT or WIDE in every mode of hw.isa.Drain, R x drain_width elements per cycle.

    A word is put together from its parts behind the elements; GELU and sigmoid follow there, word by word and slower.

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

    def __init__(self, config: AccelConfig, element_module: str | None = None, activation_module: str | None = None):
        """Take the names of modules generated separately from DrainElement and ActivationElement, or elaborate them."""
        self._config = config
        self._element_module, self._activation_module = element_module, activation_module
        self._width = drain_width(config)
        lane = data.ArrayLayout(signed(ACC_WIDTH), self._width)
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
        m.submodules.activation = activation = Activation(self._config, self._activation_module)
        m.submodules.fetch = fetch = self._walk(m)
        m.submodules.target = target = self._walk(m)

        num_in_flight = Signal(range(depth + 1))
        do_fetch = self._read_ahead(m, mode, is_wide, fetch, num_in_flight != depth, constants, residuals)
        self._compute(m, mode, constants, residuals, results)
        do_write = self._write(m, mode, is_wide, target, results, activation)
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
        """Send each part of `sums` with its constants through the elements; put their words into `results`."""
        is_part, part = self._count_parts(m)
        is_part_after = [is_part]
        for cycles in range(ELEMENT_CYCLES):
            is_part_after.append(delay(m, is_part_after[-1], 1, name=f"is_part_{cycles}", reset_less=False))
        residual_part = Signal.like(part)
        is_residual = is_part_after[RESIDUAL_CYCLES] & (mode == Drain.RESIDUAL)
        with m.If(is_residual):
            m.d.sync += residual_part.eq(residual_part + 1)
        m.d.comb += [
            constants.o.ready.eq(is_part & part.all()),
            residuals.o.ready.eq(is_residual & residual_part.all()),
        ]

        own = select_part(constants.o.payload, self._width, part)
        parts = []
        for row in range(self._config.rows):
            of_row = constants.o.payload[row]
            residual = select_part(residuals.o.payload[row], self._width, residual_part)
            for k in range(self._width):
                element = place(m, f"element_{row}_{k}", DrainElement, self._element_module)
                column = data.View(CONSTANTS, own[k])
                m.d.comb += [
                    element.acc.eq(self.sums[row][k]),
                    element.bias.eq(column.bias),
                    element.mult.eq(Mux(mode == Drain.ROW_SCALE, of_row.mult, column.mult)),
                    element.shift.eq(Mux(mode == Drain.ROW_SCALE, of_row.shift, column.shift)),
                    element.residual.eq(residual[k]),
                    element.mode.eq(mode),
                ]
                parts.append(element.o)
        m.submodules.gather = gather = Gather(self._config.rows, self._config.depth, self._width, 16)
        m.d.comb += [
            gather.push.eq(is_part_after[ELEMENT_CYCLES]),
            gather.part.eq(Cat(parts)),
            results.i.valid.eq(gather.valid),
            results.i.payload.eq(gather.word),
        ]

    def _count_parts(self, m):
        """Return whether `sums` holds a part of a word, and which."""
        parts = self._config.depth // self._width
        tile_parts = self._config.columns // self._width
        # The parts of a tile leave the array in consecutive cycles; the last tile of a row may have fewer of them.
        num_left, part = Signal(range(tile_parts)), Signal(range(parts))
        column_word = Signal(16)
        is_part = self.is_first | (num_left != 0)
        with m.If(is_part):
            m.d.sync += part.eq(part + 1)  # the number of parts is a power of two
            m.d.sync += num_left.eq(Mux(self.is_first, tile_parts - 1, num_left - 1))
            with m.If(part.all()):
                m.d.sync += column_word.eq(column_word + 1)
                with m.If(column_word == self.words - 1):
                    m.d.sync += [column_word.eq(0), num_left.eq(0)]
        return is_part, part

    def _write(self, m, mode, is_wide, target, results, activation):
        """Write each word to the next address of `target`; return the event of a word's write."""
        is_activation = _is_one_of(mode, ACTIVATION_MODES)
        m.d.comb += [
            activation.i.valid.eq(results.o.valid & is_activation),
            activation.i.payload.eq(results.o.payload),
            activation.is_gelu.eq(mode == Drain.GELU),
            activation.one.eq(self.descriptor.one),
            activation.curve.eq(self.descriptor.curve),
            activation.mult.eq(self.descriptor.mult),
            activation.shift.eq(self.descriptor.shift[:6]),
        ]
        word = results.o.payload
        low_bytes = Cat(word[row][k][:8] for row in range(self._config.rows) for k in range(self._config.depth))
        for port, bits in (
            (self.act_write, Mux(is_activation, activation.o.payload, low_bytes)),
            (self.wide_write, word),
        ):
            m.d.comb += [
                port.request.payload.address.eq(target.address),
                port.request.payload.data.eq(bits),
                port.request.payload.enable.eq(~0),
            ]
        is_act_word = Mux(is_activation, activation.o.valid, results.o.valid & ~is_wide)
        m.d.comb += [
            self.act_write.request.valid.eq(is_act_word),
            self.wide_write.request.valid.eq(results.o.valid & is_wide),
            activation.o.ready.eq(is_activation & self.act_write.request.ready),
        ]
        with m.If(is_activation):
            m.d.comb += results.o.ready.eq(activation.i.ready)
        with m.Elif(is_wide):
            m.d.comb += results.o.ready.eq(self.wide_write.request.ready)
        with m.Else():
            m.d.comb += results.o.ready.eq(self.act_write.request.ready)
        do_write = Cat(port.request.valid & port.request.ready for port in (self.act_write, self.wide_write)).any()
        m.d.comb += target.next.eq(do_write)
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


def _is_one_of(mode, modes):
    return Cat(mode == each for each in modes).any()
