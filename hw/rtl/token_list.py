"""Memory of the token lists: which patch each live token of a picture came from."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.config import AccelConfig
from hw.rtl.delay import delay
from hw.rtl.ports import token_read
from hw.rtl.selector import decision_write
from hw.timing import READ_LATENCY
from quant.reference import PACKAGE_TOKEN


class TokenList(wiring.Component):
    """Patch index of each live token: numbered by BEGIN, compacted in place by COMPACT, read by the store unit.

    Numbering takes one cycle per token, at least one; compaction one per token and one for the package.
    A STORE reads whole blocks of DDR: words beyond the list are arbitrary.

    Members
    -------
    picture : In - whose list is worked on; stable while it is.
    decide : In(1), decision : In(decision_write) - from Select.
    number : In(1), compact : In(1) - start; count : In - tokens, as the list is before a compaction.
    is_last : Out(1) - the last write of the list happens in this cycle;  is_busy : Out(1)
    port : In(read port, seen from the reader)
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                "picture": In(range(config.pictures)),
                "decide": In(1),
                "decision": In(decision_write(config)),
                "number": In(1),
                "compact": In(1),
                "count": In(range(config.max_tokens + 1)),
                "is_last": Out(1),
                "is_busy": Out(1),
                "port": In(token_read()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.tokens = tokens = Memory(shape=16, depth=self._config.token_words, init=[])
        write, read, store = tokens.write_port(), tokens.read_port(), tokens.read_port()
        index_bits = exact_log2(self._config.token_stride)
        source, target = Signal(index_bits, reset_less=True), Signal(index_bits, reset_less=True)
        tokens_left = Signal.like(self.count, reset_less=True)
        is_kept = self._read_decision(m, source)
        is_last_token = tokens_left <= 1

        # Read one cycle ahead, so never what is written in the same cycle: a token goes to its own place or before it.
        next_source = Signal.like(source)
        m.d.comb += [
            next_source.eq(source + 1),
            read.addr.eq(Cat(next_source, self.picture)),
            write.addr.eq(Cat(target, self.picture)),
        ]
        m.d.sync += [
            source.eq(next_source),
            target.eq(target + write.en),
            tokens_left.eq(tokens_left - 1),
        ]
        with m.FSM() as fsm:
            with m.State("Idle"):
                m.d.comb += next_source.eq(0)
                m.d.sync += [target.eq(0), tokens_left.eq(self.count)]
                with m.If(self.number):
                    m.next = "Number"
                with m.Elif(self.compact):
                    m.next = "Compact"
            with m.State("Number"):
                m.d.comb += [write.en.eq(1), write.data.eq(source), self.is_last.eq(is_last_token)]
                with m.If(is_last_token):
                    m.next = "Idle"
            with m.State("Compact"):
                m.d.comb += [write.en.eq(is_kept), write.data.eq(read.data)]
                with m.If(is_last_token):
                    m.next = "Append"
            with m.State("Append"):
                m.d.comb += [write.en.eq(1), write.data.eq(PACKAGE_TOKEN), self.is_last.eq(1)]
                m.next = "Idle"
        is_granted = self.port.request.valid & self.port.request.ready
        m.d.comb += [
            self.is_busy.eq(~fsm.ongoing("Idle")),
            self.port.request.ready.eq(1),
            store.addr.eq(self.port.request.payload),
            self.port.response.eq(delay(m, store.data, READ_LATENCY - 1, name="response")),
            self.port.response_valid.eq(delay(m, is_granted, READ_LATENCY, name="valid", reset_less=False)),
        ]
        return m

    def _read_decision(self, m, token):
        """Return whether SELECT kept a token; a copy of that bit spares COMPACT's steps a second reader."""
        lanes = self._config.rows
        m.submodules.decisions = memory = Memory(shape=lanes, depth=self._config.row_tiles, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.decide),
            write.addr.eq(self.decision.row_tile),
            write.data.eq(Cat(decision.is_kept for decision in self.decision.decisions)),
            read.addr.eq(token >> exact_log2(lanes)),
        ]
        return read.data.bit_select(token[: exact_log2(lanes)], 1)
