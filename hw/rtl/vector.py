"""Vector unit: LayerNorm, softmax and token selection behind one command port and one set of memory ports."""

from enum import IntEnum

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Opcode
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.rtl import ports
from hw.rtl.compact import Compact
from hw.rtl.covered_rows import covered_rows
from hw.rtl.layernorm import LayerNorm
from hw.rtl.packed_dot import Multiplier
from hw.rtl.selector import Select
from hw.rtl.softmax import Softmax
from hw.rtl.stream import MemoryReader


class Engine(IntEnum):
    """The part of the unit that executes an opcode."""

    LAYER_NORM = 0
    SOFTMAX = 1
    SELECT = 2
    COMPACT = 3


ENGINE_OF = {
    Opcode.LAYER_NORM: Engine.LAYER_NORM,
    Opcode.SOFTMAX: Engine.SOFTMAX,
    Opcode.UNIFORM: Engine.SOFTMAX,
    Opcode.SELECT: Engine.SELECT,
    Opcode.BEGIN: Engine.COMPACT,
    Opcode.COMPACT: Engine.COMPACT,
}


class VectorUnit(wiring.Component):
    """BEGIN, LAYER_NORM, SOFTMAX, UNIFORM, SELECT and COMPACT, one command at a time.

    A command that covers no row, because its picture has no live token there, is done at once.

    Engines form addresses with one bit more than a port has; here each is compared with the depth of its memory. One
    that lies outside is never requested, so the unit freezes on it and `fault` stays high until reset.

    Members
    -------
    command, done, fault : see unit_signature
    act_read, wide_read, param : Out(read ports);  act_write, wide_write, row_scale : Out(write ports)
    token : In(read port, seen from the reader) - the token list, for the store unit.
    tokens : Out(pictures x u16) - live tokens of each picture, 0 after reset;  packages : Out(pictures) - and which of
        them end with a package token.
    token_counts : Out(registers x u16) - live after each COMPACT, by its index; 0 after reset.
    """

    def __init__(
        self,
        config: AccelConfig,
        multiplier: Multiplier = Multiplier.BEHAVIOURAL,
        norm_module: str | None = None,
        exp_module: str | None = None,
    ):
        """Take the names of Verilog modules generated separately from NormChannel and ExpChannel, or elaborate them."""
        self._config, self._multiplier = config, multiplier
        self._norm_module, self._exp_module = norm_module, exp_module
        super().__init__(
            {
                **ports.unit_signature(),
                "act_read": Out(ports.act_read(config)),
                "act_write": Out(ports.act_write(config)),
                "wide_read": Out(ports.wide_read(config)),
                "wide_write": Out(ports.wide_write(config)),
                "param": Out(ports.param_read(config)),
                "row_scale": Out(ports.row_scale_write(config)),
                "token": In(ports.token_read()),
                "tokens": Out(data.ArrayLayout(16, config.pictures)),
                "packages": Out(config.pictures),
                "token_counts": Out(data.ArrayLayout(16, NUM_TOKEN_REGISTERS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.layer_norm = layer_norm = LayerNorm(config, self._norm_module)
        m.submodules.softmax = softmax = Softmax(config, self._exp_module)
        m.submodules.select = select = Select(config)
        m.submodules.compact = compact = Compact(config, self._multiplier)
        engines = {
            Engine.LAYER_NORM: layer_norm,
            Engine.SOFTMAX: softmax,
            Engine.SELECT: select,
            Engine.COMPACT: compact,
        }
        active = Signal(Engine)
        self._dispatch(m, engines, active, compact)

        # The state of the selection belongs to the compaction engine
        m.d.comb += [
            layer_norm.live.eq(compact.live),
            softmax.live.eq(compact.live),
            select.live.eq(compact.live),
            select.has_package.eq(compact.has_package),
            compact.decide.eq(select.decide),
            compact.decision.eq(select.decision),
            compact.verdict.eq(select.verdict),
            self.tokens.eq(compact.tokens),
            self.packages.eq(compact.packages),
            self.token_counts.eq(compact.token_counts),
        ]
        connect(m, compact.token, flipped(self.token))

        wide_readers = [Engine.LAYER_NORM, Engine.SOFTMAX, Engine.COMPACT]
        outside = [
            compact.fault,
            self._read(m, "act", self.act_read, config.act_words, {Engine.SELECT: select}, active),
            self._read(m, "param", self.param, config.param_words, {Engine.LAYER_NORM: layer_norm}, active),
            self._read(
                m, "wide", self.wide_read, config.wide_words, {name: engines[name] for name in wide_readers}, active
            ),
            self._write(
                m,
                self.act_write,
                config.act_words,
                {Engine.LAYER_NORM: layer_norm.act_writes, Engine.SOFTMAX: softmax.act_writes},
                active,
            ),
            self._write(m, self.wide_write, config.wide_words, {Engine.COMPACT: compact.wide_writes}, active),
            self._write(m, self.row_scale, config.row_scale_words, {Engine.SOFTMAX: softmax.row_scale_writes}, active),
        ]
        m.d.sync += self.fault.eq(Cat(outside).any())
        return m

    def _dispatch(self, m, engines, active, compact):
        """Hand the command to its engine, with its picture; hold the next one back until the engine is done."""
        is_busy, is_void, void_done = Signal(), Signal(), Signal()
        is_free = ~is_busy & ~void_done
        command = self.command.payload
        picture = Signal.like(compact.picture)
        covered = covered_rows(m, command, compact.live, self._config.rows)
        m.d.comb += [
            compact.picture.eq(Mux(is_busy, picture, command.picture)),
            is_void.eq((covered == 0) & (command.opcode != Opcode.BEGIN)),
        ]
        m.d.sync += void_done.eq(0)
        with m.If(is_void):
            m.d.comb += self.command.ready.eq(is_free)
            m.d.sync += void_done.eq(self.command.valid & self.command.ready)
        with m.Else(), m.Switch(command.opcode):
            for opcode, name in ENGINE_OF.items():
                engine = engines[name]
                with m.Case(opcode):
                    m.d.comb += [
                        engine.command.valid.eq(self.command.valid & is_free),
                        self.command.ready.eq(engine.command.ready & is_free),
                    ]
                    with m.If(self.command.valid & self.command.ready):
                        m.d.sync += [active.eq(name), is_busy.eq(1), picture.eq(command.picture)]
        for engine in engines.values():
            m.d.comb += engine.command.payload.eq(command)
        m.d.comb += self.done.eq(Cat(void_done, *(engine.done for engine in engines.values())).any())
        with m.If(self.done):
            m.d.sync += is_busy.eq(0)

    def _read(self, m, name, port, depth, engines, active):
        """Share a read port among engines; return whether the address on offer is outside the memory."""
        m.submodules[f"{name}_reader"] = reader = MemoryReader(len(port.response))
        connect(m, reader.port, flipped(port))
        is_outside = Signal(name=f"{name}_read_is_outside")
        for engine in engines.values():
            # Every engine sees the word, only the active one that it is valid: a word that is 0 elsewhere costs LUTs.
            m.d.comb += getattr(engine, f"{name}_words").payload.eq(reader.words.payload)
        with m.Switch(active):
            for engine_name, engine in engines.items():
                addresses, words = getattr(engine, f"{name}_addresses"), getattr(engine, f"{name}_words")
                with m.Case(engine_name):
                    is_inside = addresses.payload < depth
                    m.d.comb += [
                        is_outside.eq(addresses.valid & ~is_inside),
                        reader.addresses.payload.eq(addresses.payload),
                        reader.addresses.valid.eq(addresses.valid & is_inside),
                        addresses.ready.eq(reader.addresses.ready & is_inside),
                        words.valid.eq(reader.words.valid),
                        reader.words.ready.eq(words.ready),
                    ]
        return is_outside

    def _write(self, m, port, depth, streams, active):
        """Share a write port among streams; return whether the address on offer is outside the memory."""
        request = port.request
        is_outside = Signal(name="write_is_outside")

        def payload_of(writes):
            return [request.payload[field].eq(writes.payload[field]) for field in ("address", "data", "enable")]

        # The payload of one engine stands when none writes: a payload that is 0 then costs LUTs.
        m.d.comb += payload_of(next(iter(streams.values())))
        with m.Switch(active):
            for engine_name, writes in streams.items():
                with m.Case(engine_name):
                    is_inside = writes.payload.address < depth
                    m.d.comb += [
                        *payload_of(writes),
                        is_outside.eq(writes.valid & ~is_inside),
                        request.valid.eq(writes.valid & is_inside),
                        writes.ready.eq(request.ready & is_inside),
                    ]
        return is_outside
