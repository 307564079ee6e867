"""Steps of a program under construction: descriptors, the buffers that they use, and the taps that they leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from hw.allocate import Allocator
from hw.config import AccelConfig
from hw.isa import ADDEND_MASK, WITHOUT_PICTURE, Descriptor, Drain, Memory, Opcode, Region
from hw.step import Chunk, RowPart, Step, Tensor, operand, result
from hw.taps import Tap
from hw.tiling import TRANSFER_BYTES, Channels, ColumnRange, ceil_div, round_up, split_columns, transfer_words
from hw.weights import pack_norm_params, pack_params, pack_weights, pick
from quant.network import GeluLayer, LinearLayer, NormLayer

ROW_PARTS = 4
"""Row parts of a LayerNorm, of the layers that it follows and of the first that follows it: a part starts when the same
rows of the layer before are done, so that LayerNorm runs beside the array. Each is twice as long as the one before, so
that whatever the live count turns out to be, the array waits for a short first part only."""

MIN_PART_CYCLES = 64
"""A GEMM is not cut into parts of less work than this on average; each costs a few cycles between two commands."""


@dataclass
class OutputRegion:
    """The OUTPUT region so far, in bytes."""

    size: int = 0

    def reserve(self, length: int) -> int:
        """Return the offset of `length` new bytes."""
        offset = self.size
        self.size += round_up(length, TRANSFER_BYTES)
        return offset


@dataclass
class Schedule:
    """Steps in program order, and the memory and OUTPUT space that they take, as one of `pictures` pictures sees them.

    Buffers live in program order: `take` before the step that writes them, `release` after the last that reads them.
    tokens is the largest live count, weight_words the ring left beside the operands. Of the picture: stage is its
    COMPACTs so far, and drawn counts the chunks of each layer that it has used.
    """

    config: AccelConfig
    tokens: int
    weight_words: int
    is_tapped: bool
    pictures: int = 1
    picture: int = 0
    stage: int = 0
    drawn: Counter[str] = field(default_factory=Counter)
    output: OutputRegion = field(default_factory=OutputRegion)
    steps: list[Step] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)
    chunks: dict[tuple[str, int], Chunk] = field(default_factory=dict)
    memories: dict[Memory, Allocator] = field(
        default_factory=lambda: {Memory.ACT: Allocator(), Memory.WIDE: Allocator()}
    )

    def of_picture(self, picture: int) -> Schedule:
        """Return the same schedule as a picture sees it that has no step yet."""
        return replace(self, picture=picture, stage=0, drawn=Counter())

    def word_bytes(self, memory: Memory) -> int:
        """Bytes of one ACT or WIDE word."""
        return self.config.wide_bytes if memory is Memory.WIDE else self.config.act_bytes

    def take(self, memory: Memory, row_words: int, rows: int | None = None) -> Tensor:
        """Return a new buffer of `rows` rows (all tokens by default), of a size that a STORE can move."""
        tiles = ceil_div(self.tokens if rows is None else rows, self.config.rows)
        words = transfer_words(tiles * row_words, self.word_bytes(memory))
        return Tensor(memory, self.memories[memory].take(words), row_words, tiles)

    def release(self, *tensors: Tensor) -> None:
        """Free buffers; the tensors must be those that `take` returned, not parts."""
        for tensor in tensors:
            self.memories[tensor.memory].release(tensor.base)

    def emit(self, layer: str, opcode: Opcode, **fields: int) -> None:
        """Append a descriptor that needs no weights."""
        picture = 0 if opcode in WITHOUT_PICTURE else self.picture
        self.steps.append(Step((Descriptor(opcode, picture=picture, **fields),), layer))

    def draw_chunk(self, layer: str, make: Callable[[], Chunk]) -> Chunk:
        """Return the next chunk of a layer: that of the pictures before, or a new one."""
        key = (layer, self.drawn[layer])
        self.drawn[layer] += 1
        if key not in self.chunks:
            self.chunks[key] = make()
        return self.chunks[key]

    def transfer_bytes(self, tensor: Tensor) -> int:
        """Bytes that LOAD or STORE moves for a whole buffer."""
        word_bytes = self.word_bytes(tensor.memory)
        return transfer_words(tensor.tiles * tensor.stride, word_bytes) * word_bytes

    def load(self, layer: str, *sources: tuple[Tensor, Region, int]) -> None:
        """Fill whole buffers from offsets of their regions, in row parts that take turns if LOAD can move those."""
        bounds = [*(part.first_tile for part in self.row_parts(ROW_PARTS)), ceil_div(self.tokens, self.config.rows)]
        tile_bytes = [tensor.stride * self.word_bytes(tensor.memory) for tensor, _, _ in sources]
        if any(length % TRANSFER_BYTES for length in tile_bytes):
            bounds = [0, bounds[-1]]
        for first_tile, end_tile in pairwise(bounds):
            for (tensor, region, offset), length in zip(sources, tile_bytes, strict=True):
                end = self.transfer_bytes(tensor) if end_tile == bounds[-1] else end_tile * length
                self.emit(
                    layer,
                    Opcode.LOAD,
                    memory=tensor.memory,
                    region=region,
                    offset=offset + first_tile * length,
                    length=end - first_tile * length,
                    dst_base=tensor.base + first_tile * tensor.stride,
                )

    def store(self, layer: str, tensor: Tensor, offset: int) -> None:
        """Copy a whole buffer to the OUTPUT region."""
        self.emit(
            layer,
            Opcode.STORE,
            memory=tensor.memory,
            region=Region.OUTPUT,
            offset=offset,
            length=self.transfer_bytes(tensor),
            src_base=tensor.base,
        )

    def store_tokens(self, layer: str, offset: int) -> None:
        """Copy the list of live tokens to the OUTPUT region."""
        self.emit(
            layer,
            Opcode.STORE,
            memory=Memory.TOKEN,
            region=Region.OUTPUT,
            offset=offset,
            length=round_up(2 * self.tokens, TRANSFER_BYTES),
            src_base=self.picture * self.config.token_stride,
        )

    def row_parts(self, parts: int) -> list[RowPart]:
        """Cut the rows of all tokens into at most `parts` parts, each about twice as long as the one before.

        Of several pictures none is cut: while the units work on one, the array has the others.
        """
        tiles = ceil_div(self.tokens, self.config.rows)
        parts = parts if self.pictures == 1 else 1
        bounds = [ceil_div(tiles * ((1 << i) - 1), (1 << parts) - 1) for i in range(parts)]
        bounds = sorted({bound for bound in bounds if bound < tiles})
        return [
            *(RowPart(first, (end - first) * self.config.rows) for first, end in pairwise(bounds)),
            RowPart(bounds[-1], 0),
        ]

    def norm(self, name: str, layer: NormLayer, src: Tensor, dst: Tensor, rows: int = 0) -> None:
        """LayerNorm of whole rows, WIDE -> ACT."""
        descriptors = tuple(
            Descriptor(
                Opcode.LAYER_NORM,
                **part.of(operand(src)),
                **part.of(result(dst)),
                rows=part.rows,
                first_tile=part.first_tile,
                picture=self.picture,
                dim=len(layer.gamma_i16),
                shift=layer.shift,
                addend=layer.eps,
            )
            for part in ([RowPart(0, rows)] if rows else self.row_parts(ROW_PARTS))
        )
        chunk = self.draw_chunk(name, lambda: Chunk(b"", pack_norm_params(layer, self.config)))
        self.steps.append(Step(descriptors, name, chunk))

    def linear(
        self,
        name: str,
        mode: Drain,
        layer: LinearLayer,
        src: dict[str, int],
        dst: Tensor,
        rows: int = 0,
        min_runs: int = 1,
        parts: int = 1,
        **fields: int,
    ) -> None:
        """A layer of (out, in) weights, in as many GEMMs as its weights need to fit; src as `operand` gives it.

        Of a layer of all tokens, each GEMM is cut into at most `parts` parts by rows.
        """
        depth_words, columns = src["src_words"], len(layer.weight_i8)
        for run in split_columns(name, columns, depth_words, self.config, self.weight_words, min_runs):
            target = result(dst.part(run.first // self.config.depth))
            cycles = dst.tiles * ceil_div(run.count, self.config.columns) * depth_words
            descriptors = tuple(
                Descriptor(
                    Opcode.GEMM,
                    mode=mode,
                    aux_stride=depth_words,
                    cols=run.count,
                    **part.of(src),
                    **part.of(target),
                    rows=part.rows,
                    first_tile=part.first_tile,
                    picture=self.picture,
                    **fields,
                )
                for part in (
                    [RowPart(0, rows)] if rows else self.row_parts(min(parts, max(cycles // MIN_PART_CYCLES, 1)))
                )
            )
            chunk = self.draw_chunk(name, partial(self._pack, layer, run))
            self.steps.append(Step(descriptors, name, chunk))

    def _pack(self, layer: LinearLayer, run: ColumnRange) -> Chunk:
        placed = pick(layer, run.first, run.count)
        return Chunk(pack_weights(placed.weight_i8, self.config), pack_params(placed, self.config))

    def gelu_linear(
        self,
        name: str,
        layer: GeluLayer,
        src: dict[str, int],
        dst: Tensor,
        constants: tuple[int, int],
        parts: int = 1,
    ) -> None:
        """A linear layer followed by GELU; constants (one, curve) as quant.approx.gelu_constants gives them."""
        one, curve = constants
        self.linear(
            name,
            Drain.GELU,
            layer.linear,
            src,
            dst,
            parts=parts,
            mult=layer.out_mult,
            shift=layer.out_shift,
            one=one,
            curve=curve,
            addend=layer.out_offset & ADDEND_MASK,
        )

    def tap(self, name: str, tensor: Tensor, dtype: str, channels: Channels, rows: int = 0) -> None:
        """Store a (live or `rows`, channels) result, if taps are wanted."""
        if self.is_tapped:
            offset = self.output.reserve(self.transfer_bytes(tensor))
            self.taps.append(
                Tap(
                    name,
                    self.picture,
                    self.stage,
                    tensor.memory,
                    dtype,
                    offset,
                    tensor.stride,
                    channels.positions,
                    rows,
                )
            )
            self.store(name, tensor, offset)

    def tap_tokens(self, name: str) -> None:
        """Store the list of live tokens, if taps are wanted."""
        if self.is_tapped:
            offset = self.output.reserve(2 * self.tokens)
            self.taps.append(Tap(name, self.picture, self.stage, Memory.TOKEN, "uint16", offset))
            self.store_tokens(name, offset)

    def head_tap(self, name: str, tensor: Tensor, dtype: str, heads: int) -> Callable[[Tensor, int], None]:
        """Declare a (heads, live, live) result stored in buffers like `tensor`; the function returned stores a head."""
        if not self.is_tapped:
            return _store_nothing
        head_bytes = self.transfer_bytes(tensor)
        offset = self.output.reserve(heads * head_bytes)
        self.taps.append(
            Tap(
                name,
                self.picture,
                self.stage,
                tensor.memory,
                dtype,
                offset,
                tensor.stride,
                heads=heads,
                head_bytes=head_bytes,
            )
        )
        return lambda buffer, head: self.store(name, buffer, offset + head * head_bytes)


def _store_nothing(_buffer: Tensor, _head: int) -> None:
    """A tap that nobody wants."""
