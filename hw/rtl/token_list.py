"""Memory of the token lists: which patch each live token of a picture came from."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.config import AccelConfig
from hw.rtl.delay import delay
from hw.rtl.ports import token_read
from hw.timing import READ_LATENCY


class TokenList(wiring.Component):
    """Patch index of each live token: one write and one combinational read for COMPACT, a read port for the store unit.

    A STORE reads whole blocks of DDR: words beyond the list are arbitrary.

    Members
    -------
    picture : In - whose list COMPACT works on
    write, write_index, write_token : In
    read_index : In;  read_token : Out(u16) - in the same cycle.
    port : In(read port, seen from the reader)
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        index = exact_log2(config.token_stride)
        super().__init__(
            {
                "picture": In(range(config.pictures)),
                "write": In(1),
                "write_index": In(index),
                "write_token": In(16),
                "read_index": In(index),
                "read_token": Out(16),
                "port": In(token_read()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=16, depth=self._config.token_words, init=[])
        write, read, store = memory.write_port(), memory.read_port(domain="comb"), memory.read_port()
        is_granted = self.port.request.valid & self.port.request.ready
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(Cat(self.write_index, self.picture)),
            write.data.eq(self.write_token),
            read.addr.eq(Cat(self.read_index, self.picture)),
            self.read_token.eq(read.data),
            self.port.request.ready.eq(1),
            store.addr.eq(self.port.request.payload),
            self.port.response.eq(delay(m, store.data, READ_LATENCY - 1, name="response")),
            self.port.response_valid.eq(delay(m, is_granted, READ_LATENCY, name="valid", reset_less=False)),
        ]
        return m
