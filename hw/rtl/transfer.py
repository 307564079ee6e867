"""Command side that LOAD and STORE share: checks, bursts and the walk over the words of the memory."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from hw.isa import Region
from hw.rtl.axi import AXI_ADDRESS_WIDTH, BLOCK_BYTES, burst_layout
from hw.rtl.burst import BurstSplitter
from hw.rtl.ports import ADDRESS_WIDTH, descriptor_layout, unit_signature

region_layout = data.StructLayout({"base": AXI_ADDRESS_WIDTH, "size": 32})
"""One DDR region as its registers give it: physical base and bytes."""

regions_layout = data.ArrayLayout(region_layout, len(Region))
"""All DDR regions, by Region."""

BLOCK_BITS = exact_log2(BLOCK_BYTES)


class Transfer(wiring.Component):
    """One LOAD or STORE command: bursts for the bus, and one step per word of the memory.

    memories : {Memory: (bytes of a word, words)} that the unit reaches; base_field names the descriptor's first word.
    A command outside its region or memory, unaligned, empty, or not of whole words raises fault and moves nothing.

    Members
    -------
    command, done, fault : see unit_signature
    regions : In(regions_layout) - stable during a run
    bursts : Out(stream of burst_layout)
    start : Out(1) - a legal command begins: the first burst comes in the next cycle.
    base : Out(ADDRESS_WIDTH), block : Out - with start: the first word, and the first DDR block (address / 64).
    memory : Out(8) - the Memory of the command, from start on
    address : Out(ADDRESS_WIDTH), has_words : Out(1) - the next word, and whether there is one.
    step : In(1) - the next word is moved.
    is_settled : In(1) - what was moved is visible; done when it holds after the last word and the last burst.
    """

    def __init__(self, memories, base_field):
        self._memories, self._base_field = memories, base_field
        super().__init__(
            {
                **unit_signature(),
                "regions": In(regions_layout),
                "bursts": Out(stream.Signature(burst_layout)),
                "start": Out(1),
                "base": Out(ADDRESS_WIDTH),
                "block": Out(burst_layout["block"].shape),
                "memory": Out(8),
                "address": Out(ADDRESS_WIDTH),
                "has_words": Out(1),
                "step": In(1),
                "is_settled": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        command = Signal(descriptor_layout, reset_less=True)
        words_left = Signal(32)
        region = self.regions[command.region]
        is_legal = self._is_legal(command, region)
        m.submodules.splitter = splitter = BurstSplitter()
        connect(m, splitter.o, flipped(self.bursts))
        m.d.comb += [
            self.base.eq(command[self._base_field]),
            self.block.eq((region.base + command.offset) >> BLOCK_BITS),
            splitter.i.payload.block.eq(self.block),
            splitter.i.payload.blocks.eq(command.length >> BLOCK_BITS),
            self.memory.eq(command.memory),
            self.has_words.eq(words_left != 0),
        ]
        with m.If(self.step):
            m.d.sync += [self.address.eq(self.address + 1), words_left.eq(words_left - 1)]
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.d.sync += command.eq(self.command.payload)
                    m.next = "Check"
            with m.State("Check"):
                m.d.comb += [splitter.i.valid.eq(is_legal), self.start.eq(is_legal), self.fault.eq(~is_legal)]
                with m.If(is_legal):
                    m.d.sync += self.address.eq(self.base)
                    with m.Switch(command.memory):
                        for memory, (word_bytes, _) in self._memories.items():
                            with m.Case(memory):
                                m.d.sync += words_left.eq(command.length >> exact_log2(word_bytes))
                    m.next = "Move"
            with m.State("Move"):
                m.d.comb += self.done.eq(~self.has_words & splitter.idle & self.is_settled)
                with m.If(self.done):
                    m.next = "Idle"
        return m

    def _is_legal(self, command, region):
        is_aligned = Cat(field[:BLOCK_BITS] for field in (command.offset, command.length, region.base)) == 0
        is_in_region = (
            (command.region < len(Region)) & (command.length != 0) & (command.offset + command.length <= region.size)
        )
        is_in_memory = Const(0)
        for memory, (word_bytes, words) in self._memories.items():
            shift = exact_log2(word_bytes)
            is_whole = command.length[:shift] == 0
            is_inside = command[self._base_field] + (command.length >> shift) <= words
            is_in_memory |= (command.memory == memory) & is_whole & is_inside
        return is_aligned & is_in_region & is_in_memory
