"""GEMM unit: takes a command, walks its tiles through the array and lets the drain write the result."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.rtl.covered_rows import covered_rows
from hw.rtl.delay import delay
from hw.rtl.drain import NO_COLUMN, DrainUnit
from hw.rtl.gemm_array import STEP, GemmArray
from hw.rtl.joint_read import JointRead
from hw.rtl.packed_dot import Multiplier
from hw.rtl.ports import (
    act_read,
    act_write,
    descriptor_layout,
    param_read,
    row_scale_read,
    unit_signature,
    weight_read,
    wide_read,
    wide_write,
)
from hw.rtl.tile_walk import TileWalk
from hw.timing import MAX_RUNNING, READ_LATENCY, drain_width

MAX_STARTED = MAX_RUNNING - 1
"""Commands in the array or behind it; one more waits for the array."""


class Gemm(wiring.Component):
    """Executes GEMM descriptors (docs/architecture.md section 4).

    One step (R x C x K products) per cycle; a tile of s steps takes max(s, C/G) cycles, G = drain_width (with GELU or
    sigmoid activation_width, on average). The array goes on with the next command while the results of the last one
    are drained, so a command that reads what another GEMM writes must wait for it. A command without tokens, columns
    or steps is done when those before it are.

    Members
    -------
    command, done, fault : unit_signature; after a fault the unit is frozen until reset
    tokens : In(pictures x u16) - live tokens of each picture, sampled when a command is taken;  packages :
        In(pictures) - whether the last of them is a package token
    act, weight, param, wide_read, row_scale : read ports;  act_write, wide_write : write ports
    is_held_back : Out(1) - in the cycle before, the drain had no place for the tile whose last step was due
    """

    def __init__(
        self,
        config: AccelConfig,
        multiplier: Multiplier,
        column_module: str | None = None,
        element_module: str | None = None,
        activation_module: str | None = None,
    ):
        """Take the names of modules generated separately from GemmColumn and DrainUnit's two, or elaborate all."""
        self._config, self._multiplier = config, multiplier
        self._column_module, self._element_module = column_module, element_module
        self._activation_module = activation_module
        super().__init__(
            {
                **unit_signature(),
                "tokens": In(data.ArrayLayout(16, config.pictures)),
                "packages": In(config.pictures),
                "act": Out(act_read(config)),
                "weight": Out(weight_read(config)),
                "param": Out(param_read(config)),
                "wide_read": Out(wide_read(config)),
                "row_scale": Out(row_scale_read(config)),
                "act_write": Out(act_write(config)),
                "wide_write": Out(wide_write(config)),
                "is_held_back": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.array = array = GemmArray(config, self._multiplier, self._column_module)
        m.submodules.drain = drain = DrainUnit(config, self._element_module, self._activation_module)
        m.submodules.reads = reads = JointRead(
            {
                "act": (8 * config.act_bytes, config.act_words),
                "weight": (8 * config.weight_bytes, config.weight_words),
            }
        )
        for name in ("act", "weight"):
            connect(m, getattr(reads, name), flipped(getattr(self, name)))
        for name in ("param", "wide_read", "row_scale", "act_write", "wide_write"):
            connect(m, getattr(drain, name), flipped(getattr(self, name)))
        m.submodules.walk = walk = TileWalk(config.columns // config.depth)

        # The next command is taken while the array still works on the last one, and waits here with its live tokens.
        staged, running = Signal(descriptor_layout, reset_less=True), Signal(descriptor_layout, reset_less=True)
        tokens, cols = Signal(16, reset_less=True), Signal(16)
        has_package, package_column = Signal(reset_less=True), Signal(16, reset_less=True)
        row_tiles, words, steps = Signal(16), Signal(16), Signal(16)
        covered = covered_rows(m, staged, tokens, config.rows)
        m.d.comb += [
            cols.eq(Mux(staged.cols == 0, tokens, staged.cols)),
            row_tiles.eq(_ceil_divide(covered, config.rows)),
            words.eq(_ceil_divide(cols, config.depth)),
            steps.eq(Mux(staged.src_words == 0, _ceil_divide(tokens, config.depth), staged.src_words)),
        ]
        is_void = (row_tiles == 0) | (words == 0) | (steps == 0)

        # Started commands are in the array or behind it; a fault is that of the youngest one, and waits for the others.
        num_started = Signal(range(MAX_STARTED + 1))
        launch, start, void_done = Signal(), Signal(), Signal()
        has_fault = reads.fault | drain.fault
        can_launch = ~walk.is_active & ~start & drain.can_start & ~has_fault & (num_started != MAX_STARTED)
        m.d.comb += [
            self.done.eq(drain.done | void_done),
            self.fault.eq(has_fault & (num_started == 1)),
        ]
        m.d.sync += [start.eq(launch), num_started.eq(num_started + launch - drain.done)]
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.d.sync += [
                        staged.eq(self.command.payload),
                        tokens.eq(self.tokens[self.command.payload.picture]),
                        has_package.eq(self.packages.bit_select(self.command.payload.picture, 1)),
                    ]
                    m.next = "Staged"
            with m.State("Staged"):
                m.d.comb += launch.eq(~is_void & can_launch)
                m.d.comb += void_done.eq(is_void & (num_started == 0))
                with m.If(launch | void_done):
                    m.next = "Idle"

        with m.If(launch):
            m.d.sync += [
                running.eq(staged),
                walk.row_tiles.eq(row_tiles),
                walk.words.eq(words),
                walk.steps.eq(steps),
                package_column.eq(Mux(has_package, tokens - 1, NO_COLUMN)),
            ]
        m.d.comb += [
            walk.act_base.eq(running.src_base),
            walk.act_stride.eq(running.src_stride),
            walk.weight_base.eq(running.aux_base),
            walk.weight_stride.eq(running.aux_stride),
            walk.start.eq(start),
            drain.descriptor.eq(running),
            drain.package_column.eq(package_column),
            drain.row_tiles.eq(walk.row_tiles),
            drain.words.eq(walk.words),
            drain.start.eq(start),
            drain.sums.eq(array.sums),
            drain.is_first.eq(array.is_first),
        ]
        self._feed(m, walk, reads, array, drain)
        return m

    def _feed(self, m, walk, reads, array, drain):
        """Read the operands of every step of `walk` and send them into the array."""
        tile_parts = self._config.columns // drain_width(self._config)
        do_step = reads.i.valid & reads.i.ready
        offered = Signal(STEP)
        with m.If(do_step):
            m.d.sync += [offered.first.eq(walk.is_first), offered.last.eq(walk.is_last)]

        # A last step is read when the drain can take its tile and the tile before will have left the result registers.
        # Both are known here, because everything between the retired read and the drain takes a fixed time.
        is_last_offered = reads.is_busy & offered.last
        pause = Signal(range(max(tile_parts - 1, 2)))
        with m.If(is_last_offered):
            m.d.sync += pause.eq(tile_parts - 2)
        with m.Elif(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        is_free = (pause == 0) & ~is_last_offered
        is_allowed = ~walk.is_last | (is_free & (drain.num_ready >= walk.num_words))
        m.d.comb += [
            reads.i.payload.act.eq(walk.act_address),
            reads.i.payload.weight.eq(walk.weight_address),
            reads.i.payload.enable.eq(0b11),
            reads.i.valid.eq(walk.is_active & is_allowed),
            walk.next.eq(do_step),
            drain.num_taken.eq(Mux(do_step & walk.is_last, walk.num_words, 0)),
        ]

        # Only counted, so it may be late: registered, the grant of ACT's arbiter does not pass through this unit.
        m.d.sync += self.is_held_back.eq(walk.is_active & ~is_allowed & reads.i.ready)

        retired = delay(m, offered, READ_LATENCY, name="retired")
        m.d.comb += [
            array.act.eq(reads.words.act),
            array.weight.eq(reads.words.weight),
            array.step.valid.eq(reads.valid),
            array.step.first.eq(retired.first),
            array.step.last.eq(retired.last),
        ]


def _ceil_divide(value, divisor):
    """Divide by a power of two, rounding up."""
    return (value + divisor - 1) >> (divisor.bit_length() - 1)
