"""Sequencer: takes a program apart for the units, and ends the run with done or with an error."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import UNIT_OF, Drain, ErrorCode, Opcode, Unit
from hw.regmap import Status
from hw.rtl.axi import AXI_ADDRESS_WIDTH, burst_layout, read_beat_layout
from hw.rtl.dispatch import Dispatcher
from hw.rtl.fetch import Fetch
from hw.rtl.ports import descriptor_layout
from hw.rtl.transfer import BLOCK_BITS

status_layout = data.StructLayout({name.lower(): 1 for name in Status.__members__})
"""STATUS as the host reads it."""

cycles_layout = data.ArrayLayout(32, len(Unit))
"""One cycle counter per unit, by Unit."""


class State(enum.Enum):
    """Phase of a run; START, RUN and FINISH are busy."""

    IDLE = 0
    START = 1
    RUN = 2
    FINISH = 3
    DRAIN = 4


class Sequencer(wiring.Component):
    """One run from start to done or error.

    A run begins with a reset of the units. Descriptors go in program order to the queue of their unit; `done` is set
    when END has been reached and every unit is idle. A failure is reported in the cycle after it was seen, and the
    units are then held in reset; `draining` stays until the bus has answered everything, however long that takes, and
    only then is the next start taken. A start while busy or draining is ignored, and an abort in any other state.

    error_index is the descriptor that failed; for the watchdog and an abort the oldest unfinished one. A program that
    has no END within program_length fails with BAD_OPCODE at that index.

    Members
    -------
    start, abort : In(1);  program : In - DDR address;  program_length : In(32) - descriptors
    watchdog : In(32) - cycles without a completed descriptor that end the run; 0 is off.
    bursts : Out(stream of burst_layout), beats : In(stream of read_beat_layout) - program fetch
    fetch_flush : Out(1), fetch_idle : In(1) - of the reader of the program
    flush : Out(1), bus_idle : In(1) - of all engines on the bus
    unit_reset : Out(1) - reset of all units and memories' ports; a register, because it has thousands of loads.
    commands : Out(stream of descriptor_layout), array;  done, fault : In(one bit per unit)
    axi_read_error, axi_write_error : In(1) - from LOAD and STORE
    status : Out(status_layout);  error : Out(8) - ErrorCode;  error_index : Out(32)
    cycles : Out(32);  busy_cycles, wait_cycles : Out(cycles_layout)
    busy, awaited : Out - of each unit's Dispatcher
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "abort": In(1),
                "program": In(AXI_ADDRESS_WIDTH),
                "program_length": In(32),
                "watchdog": In(32),
                "bursts": Out(stream.Signature(burst_layout)),
                "beats": In(stream.Signature(read_beat_layout(config.axi_bytes))),
                "fetch_flush": Out(1),
                "fetch_idle": In(1),
                "flush": Out(1),
                "bus_idle": In(1),
                "unit_reset": Out(1, init=1),
                "commands": Out(stream.Signature(descriptor_layout)).array(len(Unit)),
                "done": In(len(Unit)),
                "fault": In(len(Unit)),
                "axi_read_error": In(1),
                "axi_write_error": In(1),
                "status": Out(status_layout),
                "error": Out(8),
                "error_index": Out(32),
                "cycles": Out(32),
                "busy_cycles": Out(cycles_layout),
                "wait_cycles": Out(cycles_layout),
                "busy": Out(len(Unit)),
                "awaited": Out(data.ArrayLayout(len(Unit), len(Unit))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        do_start, do_drain = Signal(), Signal()
        do_reset = do_start | do_drain
        m.d.sync += self.unit_reset.eq(do_reset)
        m.submodules.fetch = fetch = ResetInserter(self.fetch_flush)(Fetch(self._config.axi_bytes))
        dispatchers = [ResetInserter(do_reset)(Dispatcher()) for _ in Unit]
        for unit, dispatcher in zip(Unit, dispatchers, strict=True):
            m.submodules[unit.name.lower()] = dispatcher
            connect(m, dispatcher.command, flipped(self.commands[unit]))
            m.d.comb += dispatcher.done.eq(self.done[unit])
            m.d.comb += [self.busy[unit].eq(dispatcher.busy), self.awaited[unit].eq(dispatcher.awaited)]
            m.d.comb += [dispatcher.counts[other].eq(dispatchers[other].count) for other in Unit]
        connect(m, fetch.bursts, flipped(self.bursts))
        connect(m, flipped(self.beats), fetch.beats)
        position = Signal(32)  # of the descriptor that the fetch offers, or will offer next
        bad_opcode, bad_program = Signal(), Signal()
        is_idle = ~Cat(dispatcher.pending for dispatcher in dispatchers).any()

        state = Signal(State)
        m.d.comb += self.fetch_flush.eq((state != State.START) & (state != State.RUN))
        with m.Switch(state):
            with m.Case(State.IDLE):
                m.d.comb += do_start.eq(self.start)
                with m.If(do_start):
                    m.d.sync += [
                        self.status.eq(Status.BUSY),
                        self.error.eq(ErrorCode.NONE),
                        self.error_index.eq(0),
                        position.eq(0),
                        state.eq(State.START),
                    ]
            with m.Case(State.START):
                m.d.comb += [
                    bad_program.eq(self.program[:BLOCK_BITS] != 0),
                    fetch.start.eq(self.program_length != 0),
                    fetch.block.eq(self.program[BLOCK_BITS:]),
                    fetch.length.eq(self.program_length),
                ]
                m.d.sync += state.eq(State.RUN)
            with m.Case(State.RUN):
                with m.If(position == self.program_length):
                    m.d.comb += bad_opcode.eq(1)
                with m.Elif(fetch.o.valid):
                    self._decode(m, fetch.o, dispatchers, position, bad_opcode, state)
            with m.Case(State.FINISH):
                with m.If(is_idle & self.fetch_idle):
                    m.d.sync += [self.status.eq(Status.DONE), state.eq(State.IDLE)]
            with m.Case(State.DRAIN):
                m.d.comb += [self.flush.eq(1), do_drain.eq(1)]
                # The engines are flushed until the reset has reached the units, which offer bursts until then.
                with m.If(self.bus_idle & self.unit_reset):
                    m.d.sync += [self.status.draining.eq(0), state.eq(State.IDLE)]

        oldest = Signal(32)
        m.d.sync += oldest.eq(self._oldest_index(dispatchers, position))
        failures = [
            *self._unit_failures(dispatchers),
            (bad_program, ErrorCode.BAD_ADDRESS, position),
            (fetch.axi_error & (state == State.RUN), ErrorCode.AXI_READ, position),
            (bad_opcode, ErrorCode.BAD_OPCODE, position),
            (self._is_stuck(m), ErrorCode.WATCHDOG, oldest),
            (self.abort, ErrorCode.ABORTED, oldest),
        ]
        for is_seen, code, index in reversed(failures):  # the last assignment wins: the list is in order of precedence
            with m.If(self.status.busy & is_seen):
                m.d.sync += [
                    self.status.eq(Status.ERROR | Status.DRAINING),
                    self.error.eq(code),
                    self.error_index.eq(index),
                    state.eq(State.DRAIN),
                ]
        self._count_cycles(m, dispatchers, do_start)
        return m

    def _decode(self, m, descriptors, dispatchers, position, bad_opcode, state):
        """Hand the offered descriptor to the queue of its unit."""
        descriptor = descriptors.payload
        for dispatcher in dispatchers:
            m.d.comb += [dispatcher.i.payload.descriptor.eq(descriptor), dispatcher.i.payload.index.eq(position)]
        with m.If(descriptors.ready):
            m.d.sync += position.eq(position + 1)
        with m.Switch(descriptor.opcode):
            with m.Case(Opcode.END):
                m.d.sync += state.eq(State.FINISH)
            for unit, dispatcher in zip(Unit, dispatchers, strict=True):
                with m.Case(*(opcode for opcode, owner in UNIT_OF.items() if owner is unit)):
                    is_legal = (descriptor.opcode != Opcode.GEMM) | (descriptor.mode <= max(Drain))
                    is_legal &= descriptor.picture < self._config.pictures
                    m.d.comb += [
                        bad_opcode.eq(~is_legal),
                        dispatcher.i.valid.eq(is_legal),
                        descriptors.ready.eq(is_legal & dispatcher.i.ready),
                    ]
            with m.Default():
                m.d.comb += bad_opcode.eq(1)

    def _unit_failures(self, dispatchers):
        """Return (condition, code, index) of what the units report."""
        load, store = dispatchers[Unit.LOAD], dispatchers[Unit.STORE]
        return [
            (self.axi_read_error, ErrorCode.AXI_READ, load.index),
            (self.axi_write_error, ErrorCode.AXI_WRITE, store.index),
            *((self.fault[unit], ErrorCode.BAD_ADDRESS, dispatchers[unit].index) for unit in Unit),
        ]

    def _oldest_index(self, dispatchers, position):
        """Return the lowest index of an unfinished descriptor; the position of the fetch if there is none."""
        # No index of a dispatcher exceeds the position, so the position can stand for "none".
        candidates = [position, *(Mux(unit.pending, unit.index, position) for unit in dispatchers)]
        while len(candidates) > 1:  # a tree: a chain of six comparisons would be the slowest path of the core
            pairs = zip(candidates[::2], candidates[1::2], strict=False)
            candidates = [Mux(left < right, left, right) for left, right in pairs] + candidates[len(candidates) & ~1 :]
        return candidates[0]

    def _is_stuck(self, m):
        """Return whether the watchdog has run out."""
        quiet_cycles = Signal(32)
        m.d.sync += quiet_cycles.eq(quiet_cycles + 1)
        with m.If(self.done.any() | ~self.status.busy):
            m.d.sync += quiet_cycles.eq(0)
        return (self.watchdog != 0) & (quiet_cycles == self.watchdog)

    def _count_cycles(self, m, dispatchers, do_start):
        counters = [(self.cycles, 1)]
        for unit, dispatcher in zip(Unit, dispatchers, strict=True):
            counters += [(self.busy_cycles[unit], dispatcher.busy), (self.wait_cycles[unit], dispatcher.waiting)]
        for counter, is_counted in counters:
            with m.If(self.status.busy):
                m.d.sync += counter.eq(counter + is_counted)
            with m.Elif(do_start):
                m.d.sync += counter.eq(0)
