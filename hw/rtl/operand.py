"""KEYS and VALUES: rows of ACT become the weights of the two attention products."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from hw.config import AccelConfig
from hw.isa import Opcode
from hw.rtl.ports import ADDRESS_WIDTH, act_read, descriptor_layout, unit_signature, weight_write
from hw.rtl.stream import MemoryReader

ROW_TILE_WIDTH = 8
"""Row tiles of at most 256 tokens in tiles of at least two rows, and the count itself."""

EXACT_WIDTH = 40
"""Bits in which base + row * stride + word cannot wrap, so that an address beyond the memory is always seen."""

step_layout = data.StructLayout({"row_tile": ROW_TILE_WIDTH, "word": ADDRESS_WIDTH, "is_row_end": 1})
"""One ACT word of the command: its row tile, its place in the row, and whether the next one is in another row tile."""


class RowWalk(wiring.Component):
    """Walk over the words of each row tile, words first; 1 step per cycle.

    Members
    -------
    start : In(1) - only while idle;  row_tiles : In, words : In - how many; either may be 0.
    o : Out(stream of step_layout);  idle : Out(1) - every step has been taken.
    """

    def __init__(self):
        super().__init__(
            {
                "start": In(1),
                "row_tiles": In(ROW_TILE_WIDTH),
                "words": In(ADDRESS_WIDTH),
                "o": Out(stream.Signature(step_layout)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        step = self.o.payload
        last_word = Signal(ADDRESS_WIDTH)
        last_row_tile = Signal(ROW_TILE_WIDTH)
        m.d.comb += [self.idle.eq(~self.o.valid), step.is_row_end.eq(step.word == last_word)]
        row_tile, word, is_valid = Signal(ROW_TILE_WIDTH), Signal(ADDRESS_WIDTH), Signal()
        m.d.comb += [step.row_tile.eq(row_tile), step.word.eq(word), self.o.valid.eq(is_valid)]
        with m.If(self.start):
            m.d.sync += [
                last_word.eq(self.words - 1),
                last_row_tile.eq(self.row_tiles - 1),
                row_tile.eq(0),
                word.eq(0),
                is_valid.eq((self.words != 0) & (self.row_tiles != 0)),
            ]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += word.eq(Mux(step.is_row_end, 0, word + 1))
            with m.If(step.is_row_end):
                m.d.sync += [row_tile.eq(row_tile + 1), is_valid.eq(row_tile != last_row_tile)]
        return m


def _clip_bytes(word):
    """Store -128 as -127: the packed multiplier needs symmetric weights (hw/rtl/packed_dot.py)."""
    lanes = [word[start : start + 8] for start in range(0, len(word), 8)]
    return Cat(Cat(lane[0] | (lane == 0x80), lane[1:]) for lane in lanes)


class OperandUnit(wiring.Component):
    """Operand loader: one ACT word per cycle, written to WEIGHT in place (KEYS) or transposed (VALUES).

    An ACT word holds R tokens x K channels. As keys these are R adjacent columns of all K depth bytes; as values K
    adjacent columns of R adjacent depth bytes. Because R divides K and K divides C, either is one write with byte
    enables, and both permutations are wiring.

    Members
    -------
    command, done, fault : see unit_signature
    tokens : In(pictures x u16) - live tokens of each picture; sampled with the command.
    act : Out(read port);  weight : Out(write port)
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                **unit_signature(),
                "tokens": In(data.ArrayLayout(16, config.pictures)),
                "act": Out(act_read(config)),
                "weight": Out(weight_write(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        command = Signal(descriptor_layout, reset_less=True)
        do_start = self.command.valid & self.command.ready
        m.submodules.reads = reads = RowWalk()
        m.submodules.writes = writes = RowWalk()
        m.submodules.reader = reader = MemoryReader(8 * config.act_bytes)
        connect(m, reader.port, flipped(self.act))
        tokens = Signal(16)
        m.d.comb += tokens.eq(self.tokens[self.command.payload.picture])
        for walk in (reads, writes):
            m.d.comb += [
                walk.start.eq(do_start),
                walk.row_tiles.eq((tokens + config.rows - 1) >> exact_log2(config.rows)),
                walk.words.eq(self.command.payload.src_words),
            ]

        row_base = Signal(EXACT_WIDTH)
        src_address = row_base + reads.o.payload.word
        is_src_inside = src_address < config.act_words
        do_read = reads.o.valid & reads.o.ready
        m.d.comb += [
            reader.addresses.payload.eq(src_address),
            reader.addresses.valid.eq(reads.o.valid & is_src_inside),
            reads.o.ready.eq(reader.addresses.ready & is_src_inside),
        ]
        with m.If(do_start):
            m.d.sync += [command.eq(self.command.payload), row_base.eq(self.command.payload.src_base)]
        with m.Elif(do_read & reads.o.payload.is_row_end):
            m.d.sync += row_base.eq(row_base + command.src_stride)

        is_dst_inside, is_writing = self._write(m, command, writes, reader.words)
        is_busy = Signal()
        m.d.comb += [
            self.command.ready.eq(~is_busy),
            self.done.eq(is_busy & writes.idle & ~is_writing),
            self.fault.eq((reads.o.valid & ~is_src_inside) | (is_writing & ~is_dst_inside)),
        ]
        with m.If(do_start):
            m.d.sync += is_busy.eq(1)
        with m.If(self.done):
            m.d.sync += is_busy.eq(0)
        return m

    def _write(self, m, command, writes, words):
        """Place each word that was read; return whether its address is inside WEIGHT and whether one is pending."""
        rows, columns, depth = self._config.rows, self._config.columns, self._config.depth
        step = writes.o.payload
        word = Signal(8 * self._config.act_bytes, reset_less=True)
        address = Signal(EXACT_WIDTH)
        row_tile, column_word = Signal(ROW_TILE_WIDTH), Signal(ADDRESS_WIDTH)
        is_pending = Signal()
        request = self.weight.request
        is_inside = address < self._config.weight_words
        is_values = command.opcode == Opcode.VALUES

        column_tile = Mux(
            is_values, step.word >> exact_log2(columns // depth), step.row_tile >> exact_log2(columns // rows)
        )
        tile_word = Mux(is_values, step.row_tile >> exact_log2(depth // rows), step.word)
        can_take = ~is_pending | (is_inside & request.ready)
        do_take = writes.o.valid & words.valid & can_take
        m.d.comb += [
            writes.o.ready.eq(words.valid & can_take),
            words.ready.eq(writes.o.valid & can_take),
            request.valid.eq(is_pending & is_inside),
            request.payload.address.eq(address),
        ]
        with m.If(request.valid & request.ready):
            m.d.sync += is_pending.eq(0)
        with m.If(do_take):
            m.d.sync += [
                is_pending.eq(1),
                word.eq(_clip_bytes(words.payload)),
                row_tile.eq(step.row_tile),
                column_word.eq(step.word),
                address.eq(command.dst_base + column_tile * command.dst_stride + tile_word),
            ]

        # Every segment carries the word; the enables pick the one that is meant.
        keys_segment = row_tile[: exact_log2(columns // rows)]
        values_segment = column_word[: exact_log2(columns // depth)]
        depth_segment = row_tile[: exact_log2(depth // rows)]
        keys_enable, values_enable, values_bytes = [], [], []
        for column in range(columns):
            for position in range(depth):
                keys_enable.append(keys_segment == column // rows)
                values_enable.append((values_segment == column // depth) & (depth_segment == position // rows))
                values_bytes.append(word.word_select((position % rows) * depth + column % depth, 8))
        with m.If(is_values):
            m.d.comb += [request.payload.data.eq(Cat(values_bytes)), request.payload.enable.eq(Cat(values_enable))]
        with m.Else():
            m.d.comb += [
                request.payload.data.eq(word.replicate(columns // rows)),
                request.payload.enable.eq(Cat(keys_enable)),
            ]
        return is_inside, is_pending
