"""Self-attention as steps, head by head and picture by picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hw.isa import ADDEND_MASK, Drain, Memory, Opcode
from hw.schedule import ROW_PARTS
from hw.site import Site
from hw.step import Tensor, operand, result
from hw.tiling import head_channels
from hw.weights import place_layer
from quant.network import Block


@dataclass(frozen=True)
class _Head:
    """One head of one picture. slot counts the heads of all pictures; two take turns with each buffer."""

    site: Site
    block: Block
    name: str
    number: int
    projected: dict[str, Tensor]
    context: Tensor
    scores: Tensor
    exps: Tensor
    store_scores: Callable[[Tensor, int], None]
    store_exps: Callable[[Tensor, int], None]

    @property
    def slot(self) -> int:
        """Number of the head in the order of all heads."""
        return self.site.picture * self.site.network.num_heads + self.number

    @property
    def words(self) -> int:
        """Words of a row of q, k, v or the context that belong to the head."""
        return self.context.stride // self.site.network.num_heads

    def add_scores(self) -> None:
        """Load the keys and the values, compute the scores and their exponentials."""
        schedule, operands = self.site.schedule, self.site.operands
        q, k, v = (operand(self.projected[letter].part(self.number * self.words), self.words) for letter in "qkv")
        key_base = operands.key_base(self.slot)
        schedule.emit(f"{self.name}.scores", Opcode.KEYS, **k, dst_base=key_base, dst_stride=self.words)
        schedule.emit(f"{self.name}.context", Opcode.VALUES, **v, **operands.values_result(self.slot))
        schedule.emit(
            f"{self.name}.scores",
            Opcode.GEMM,
            mode=Drain.SCORE,
            **q,
            aux_base=key_base,
            aux_stride=self.words,
            **result(self.scores),
            mult=self.block.score_mult,
            shift=self.block.score_shift,
            addend=int(self.block.package_bias_i32[self.number]) & ADDEND_MASK,
        )
        self.store_scores(self.scores, self.number)
        schedule.emit(
            f"{self.name}.exp",
            Opcode.SOFTMAX,
            src_base=self.scores.base,
            src_stride=self.scores.stride,
            **result(self.exps),
            row_base=self.site.row_scales(self.slot),
            mult=self.block.context_mult,
            shift=self.block.context_shift,
        )
        self.store_exps(self.exps, self.number)

    def add_product(self) -> None:
        """Multiply the exponentials with the values; after the last head, add the projection to the residual."""
        site, channels = self.site, head_channels(self.site.network, self.site.depth)
        site.schedule.emit(
            f"{self.name}.context",
            Opcode.GEMM,
            mode=Drain.ROW_SCALE,
            **operand(self.exps, 0),
            **site.operands.values(self.slot),
            **result(self.context.part(self.number * self.words)),
            cols=site.network.head_dim,
            row_base=site.row_scales(self.slot),
        )
        if self.number == site.network.num_heads - 1:
            site.schedule.tap(f"{self.name}.context", self.context, "int8", channels)
            site.add_residual(f"{self.name}.proj", place_layer(self.block.proj, channels, site.dense), self.context)
            site.schedule.release(self.context)


def add_attention(sites: Sequence[Site], block: Block, name: str, normed: Sequence[Tensor]) -> None:
    """Attention of every picture on its normalised residual, added to the residual; releases `normed`.

    The scores of a head precede the product of the head before, so that the array computes while the vector unit
    takes exponentials. The projections of the next picture come between those two for the same reason.
    """
    first, heads = sites[0], sites[0].network.num_heads
    buffers = range(min(len(sites) * heads, 2))
    scores = [first.schedule.take(Memory.WIDE, first.token_words) for _ in buffers]
    exps = [first.schedule.take(Memory.ACT, first.token_words) for _ in buffers]
    before: _Head | None = None
    for site, source in zip(sites, normed, strict=True):
        projected = _add_projections(site, block, name, source)
        context = site.take(head_channels(site.network, site.depth))
        store_scores = site.schedule.head_tap(f"{name}.scores", scores[0], "int16", heads)
        store_exps = site.schedule.head_tap(f"{name}.exp", exps[0], "uint8", heads)
        for number in range(heads):
            turn = (site.picture * heads + number) % 2
            head = _Head(
                site, block, name, number, projected, context, scores[turn], exps[turn], store_scores, store_exps
            )
            head.add_scores()
            if before:
                before.add_product()
            before = head
        site.schedule.release(*projected.values())
    assert before
    before.add_product()
    first.schedule.release(*scores, *exps)


def _add_projections(site: Site, block: Block, name: str, normed: Tensor) -> dict[str, Tensor]:
    """Return the buffers of q, k and v by letter, and release `normed`."""
    schedule, by_head = site.schedule, head_channels(site.network, site.depth)
    projected: dict[str, Tensor] = {}
    # k and v first: the operand unit loads the first head while q is computed.
    for letter, layer in (("k", block.k), ("v", block.v), ("q", block.q)):
        tap, projected[letter] = f"{name}.{letter}", site.take(by_head)
        placed, parts = place_layer(layer, site.dense, by_head), ROW_PARTS if letter == "k" else 1
        schedule.linear(tap, Drain.INT8, placed, operand(normed), projected[letter], parts=parts)
        schedule.tap(tap, projected[letter], "int8", by_head)
    schedule.release(normed)
    return projected
