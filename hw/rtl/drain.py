"""GEMM drain: turns accumulators into output words and writes them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

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
from hw.timing import ELEMENT_CYCLES, READ_LATENCY, RESIDUAL_CYCLES, drain_width, words_in_flight

JOBS = 4
"""Commands that may be between the read of their first constant and the write of their last word."""

NO_COLUMN = (1 << 16) - 1
"""Beyond the last column that a command can have."""

compute_job = data.StructLayout({"mode": Drain, "row_tiles": 16, "words": 16})
"""What the elements need of a command."""

write_job = data.StructLayout(
    {
        **{name: 16 for name in ("dst_base", "dst_stride", "row_tiles", "words", "one", "curve", "mult")},
        "addend": signed(16),  # GELU's is short
        "shift": 6,
        "mode": Drain,
    }
)
"""What activation and writes need of a command."""

CONSTANTS = data.StructLayout({"bias": signed(32), "mult": 16, "shift": 6})
"""Bias and scale of one column, or in mode ROW_SCALE of one row."""

PARAM_MODES = (Drain.INT8, Drain.GELU, Drain.SIGMOID, Drain.RESIDUAL, Drain.WIDE)
WIDE_MODES = (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE)
ACTIVATION_MODES = (Drain.GELU, Drain.SIGMOID)


class DrainUnit(wiring.Component):
    """Accumulators to ACT or WIDE in every mode of hw.isa.Drain, R x drain_width elements per cycle.

    A word is put together from its parts behind the elements; GELU and sigmoid follow there, word by word and slower.
    Three stages work on up to three commands at a time: the one whose constants are read, the one whose sums come, and
    the one whose words are written. Words never overtake each other.

    Nothing between `sums` and the queue in front of the write port can stall. So the constants of a word are read
    ahead, and with the read a place in that queue is reserved; `num_ready` counts the words for which both are
    certain. Who feeds the array takes the words of a tile from that number before its last step enters the array.

    Members
    -------
    start : In(1) - while can_start;  can_start : Out(1) - the constants of the last command have been read
    descriptor : In(descriptor_layout), row_tiles : In(16), words : In(16) - stable until the next start
    package_column : In(16) - to whose sums mode SCORE adds the addend, or NO_COLUMN; as stable
    sums, is_first : In - as from GemmArray
    num_ready : Out - words that may be taken;  num_taken : In - words taken in this cycle
    param, wide_read, row_scale, act_write, wide_write : ports
    done : Out(1) - every word of the oldest command has been written
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
                "can_start": Out(1),
                "descriptor": In(descriptor_layout),
                "row_tiles": In(16),
                "words": In(16),
                "package_column": In(16),
                "sums": In(data.ArrayLayout(lane, config.rows)),
                "is_first": In(1),
                "num_ready": Out(range(words_in_flight(config) + 1)),
                "num_taken": In(range(config.columns // config.depth + 1)),
                "param": Out(param_read(config)),
                "wide_read": Out(wide_read(config)),
                "row_scale": Out(row_scale_read(config)),
                "act_write": Out(act_write(config)),
                "wide_write": Out(wide_write(config)),
                "done": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = words_in_flight(self._config)
        tagged = data.StructLayout({"word": self._lanes, "is_last": 1})
        m.submodules.compute_jobs = compute_jobs = Fifo(compute_job, JOBS)
        m.submodules.write_jobs = write_jobs = Fifo(write_job, JOBS)
        m.submodules.constants = constants = Fifo(data.ArrayLayout(CONSTANTS, self._config.depth), depth)
        m.submodules.residuals = residuals = Fifo(self._lanes, depth)
        m.submodules.results = results = Fifo(tagged, depth)
        m.submodules.fetch = fetch = WordWalk()

        jobs = {"row_tiles": self.row_tiles, "words": self.words}
        for queue in (compute_jobs, write_jobs):
            m.d.comb += queue.i.valid.eq(self.start)
            for name in queue.i.payload.shape().members:
                m.d.comb += queue.i.payload[name].eq(jobs[name] if name in jobs else self.descriptor[name])
        m.d.comb += [
            fetch.base.eq(self.descriptor.dst_base),
            fetch.stride.eq(self.descriptor.dst_stride),
            fetch.words.eq(self.words),
            fetch.row_tiles.eq(self.row_tiles),
            fetch.start.eq(self.start),
        ]
        num_in_flight = Signal(range(depth + 1))
        do_fetch, is_reading = self._read_ahead(m, fetch, num_in_flight != depth, constants, residuals)
        m.d.comb += self.can_start.eq(~fetch.is_active & ~is_reading & compute_jobs.i.ready & write_jobs.i.ready)
        self._compute(m, compute_jobs.o, constants, residuals, results)
        do_write = self._write(m, write_jobs.o, results)
        m.d.sync += num_in_flight.eq(num_in_flight + do_fetch - do_write)
        return m

    def _read_ahead(self, m, fetch, has_place, constants, residuals):
        """Read the constants and residuals of every word of `fetch`; return the event of a word's read, and whether any
        read is not over.
        """
        config = self._config
        mode = Signal(Drain)
        m.d.comb += mode.eq(self.descriptor.mode)
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
        is_beyond = fetch.address >= Mux(_is_one_of(mode, WIDE_MODES), config.wide_words, config.act_words)
        is_target_fault = Signal()
        with m.If(fetch.is_active & is_beyond):
            m.d.sync += is_target_fault.eq(1)
        do_fetch = reads.i.valid & reads.i.ready
        offered_word = Signal(16, reset_less=True)
        is_package_word = offered_word == self.package_column >> exact_log2(config.depth)
        is_package_read = delay(m, is_package_word, READ_LATENCY, name="is_package_read")
        enable = Cat(_is_one_of(mode, PARAM_MODES), mode == Drain.RESIDUAL, mode == Drain.ROW_SCALE)
        m.d.comb += [
            reads.i.valid.eq(fetch.is_active & has_place & ~is_beyond),
            reads.i.payload.param.eq(self.descriptor.param_base + fetch.word),
            reads.i.payload.wide_read.eq(fetch.address),
            reads.i.payload.row_scale.eq(self.descriptor.row_base + fetch.row),
            reads.i.payload.enable.eq(enable),
            fetch.next.eq(do_fetch),
            constants.i.valid.eq(reads.valid),
            constants.i.payload.eq(self._constants(reads.words, mode, is_package_read)),
            residuals.i.valid.eq(reads.valid & (mode == Drain.RESIDUAL)),
            residuals.i.payload.eq(reads.words.wide_read),
            self.fault.eq(reads.fault | is_target_fault),
        ]
        with m.If(do_fetch):
            m.d.sync += offered_word.eq(fetch.word)
        num_reading = Signal(range(READ_LATENCY + 2))
        m.d.sync += [
            num_reading.eq(num_reading + do_fetch - reads.valid),
            self.num_ready.eq(self.num_ready + reads.is_retired - self.num_taken),
        ]
        return do_fetch, num_reading != 0

    def _compute(self, m, jobs, constants, residuals, results):
        """Send each part of `sums` with its constants through the elements; put their words into `results`."""
        mode = jobs.payload.mode
        is_part, part, is_last_part = self._count_parts(m, jobs)
        is_part_after = [is_part]
        for cycles in range(ELEMENT_CYCLES):
            is_part_after.append(delay(m, is_part_after[-1], 1, name=f"is_part_{cycles}", reset_less=False))
        mode_after = delay(m, mode, RESIDUAL_CYCLES, name="mode")
        residual_part = Signal.like(part)
        is_residual = is_part_after[RESIDUAL_CYCLES] & (mode_after == Drain.RESIDUAL)
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
                    element.mode.eq(mode_after),
                ]
                parts.append(element.o)
        m.submodules.gather = gather = Gather(self._config.rows, self._config.depth, self._width, 16)
        m.d.comb += [
            gather.push.eq(is_part_after[ELEMENT_CYCLES]),
            gather.part.eq(Cat(parts)),
            results.i.valid.eq(gather.valid),
            results.i.payload.word.eq(gather.word),
            results.i.payload.is_last.eq(delay(m, is_last_part, ELEMENT_CYCLES, name="is_last_part")),
        ]

    def _count_parts(self, m, jobs):
        """Return whether `sums` holds a part of a word, which, and whether it is the last one of the command."""
        parts = self._config.depth // self._width
        tile_parts = self._config.columns // self._width
        # The parts of a tile leave the array in consecutive cycles; the last tile of a row may have fewer of them.
        num_left, part = Signal(range(tile_parts)), Signal(range(parts))
        column_word, row = Signal(16), Signal(16)
        is_part, is_row_end, is_last_part = Signal(), Signal(), Signal()
        m.d.comb += [
            is_part.eq(self.is_first | (num_left != 0)),
            is_row_end.eq(is_part & part.all() & (column_word == jobs.payload.words - 1)),
            is_last_part.eq(is_row_end & (row == jobs.payload.row_tiles - 1)),
            jobs.ready.eq(is_last_part),
        ]
        with m.If(is_part):
            m.d.sync += part.eq(part + 1)  # the number of parts is a power of two
            m.d.sync += num_left.eq(Mux(self.is_first, tile_parts - 1, num_left - 1))
            with m.If(is_row_end):
                m.d.sync += [column_word.eq(0), num_left.eq(0), row.eq(Mux(is_last_part, 0, row + 1))]
            with m.Elif(part.all()):
                m.d.sync += column_word.eq(column_word + 1)
        return is_part, part, is_last_part

    def _write(self, m, jobs, results):
        """Write each word to the next address of its command; return the event of a word's write."""
        m.submodules.activation = activation = Activation(self._config, self._activation_module)
        m.submodules.target = target = WordWalk()
        job, mode = jobs.payload, jobs.payload.mode
        m.d.comb += [
            target.base.eq(job.dst_base),
            target.stride.eq(job.dst_stride),
            target.words.eq(job.words),
            target.row_tiles.eq(job.row_tiles),
        ]
        is_running = Signal()
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += target.start.eq(jobs.valid)
                with m.If(jobs.valid):
                    m.next = "Run"
            with m.State("Run"):
                m.d.comb += [is_running.eq(target.is_active), self.done.eq(~target.is_active), jobs.ready.eq(self.done)]
                with m.If(self.done):
                    m.next = "Idle"

        # The words of the next command wait behind the last one of this.
        is_activation, is_wide = _is_one_of(mode, ACTIVATION_MODES), _is_one_of(mode, WIDE_MODES)
        has_last = Signal()  # the last word has gone to the activation
        with m.If(self.done):
            m.d.sync += has_last.eq(0)
        with m.Elif(activation.i.valid & activation.i.ready & results.o.payload.is_last):
            m.d.sync += has_last.eq(1)
        m.d.comb += [
            activation.i.valid.eq(results.o.valid & is_running & is_activation & ~has_last),
            activation.i.payload.eq(results.o.payload.word),
            activation.is_gelu.eq(mode == Drain.GELU),
            activation.one.eq(job.one),
            activation.curve.eq(job.curve),
            activation.offset.eq(job.addend),
            activation.mult.eq(job.mult),
            activation.shift.eq(job.shift),
        ]
        word = results.o.payload.word
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
            self.act_write.request.valid.eq(is_running & is_act_word),
            self.wide_write.request.valid.eq(is_running & is_wide & results.o.valid),
            activation.o.ready.eq(is_running & is_activation & self.act_write.request.ready),
        ]
        with m.If(is_activation):
            m.d.comb += results.o.ready.eq(activation.i.valid & activation.i.ready)
        with m.Elif(is_wide):
            m.d.comb += results.o.ready.eq(is_running & self.wide_write.request.ready)
        with m.Else():
            m.d.comb += results.o.ready.eq(is_running & self.act_write.request.ready)
        do_write = Cat(port.request.valid & port.request.ready for port in (self.act_write, self.wide_write)).any()
        m.d.comb += target.next.eq(do_write)
        return do_write

    def _constants(self, words, mode, is_package_word):
        """Return the K constants of a word: of its columns, of its rows (the first R of K), or of the command, whose
        addend is for the column of the package token, if the word has it.
        """
        rows = data.View(data.ArrayLayout(ROW_SCALE_ENTRY, self._config.rows), words.row_scale)
        params = data.View(data.ArrayLayout(PARAM_ENTRY, self._config.depth), words.param)
        entries = []
        for k in range(self._config.depth):
            row, param = rows[k % self._config.rows], params[k]
            from_param = Cat(param.bias, param.mult, param.shift)
            from_row = Cat(Const(0, 32), row.mult, row.shift)
            is_package = is_package_word & (self.package_column % self._config.depth == k)
            addend = Mux(is_package, self.descriptor.addend, 0)
            from_command = Cat(addend, self.descriptor.mult, self.descriptor.shift[:6])
            entries.append(Mux(mode == Drain.ROW_SCALE, from_row, Mux(mode == Drain.SCORE, from_command, from_param)))
        return Cat(entries)


def _is_one_of(mode, modes):
    return Cat(mode == each for each in modes).any()
