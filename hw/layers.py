"""The layers of a network as steps: patch embedding, transformer block, head. hw/selection.py adds the selector.

Every function adds its layer for all pictures of the program: their steps share the weights that are loaded for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from hw.attention import add_attention
from hw.isa import Drain, Memory, Opcode, Region
from hw.schedule import ROW_PARTS
from hw.site import Site
from hw.step import Tensor, operand
from hw.tiling import Channels
from quant.approx import gelu_constants
from quant.network import Block, LinearLayer, NormLayer

EMBEDDING_RUNS = 4
"""Column runs of the patch embedding: the array starts on the first while the weights of the others are loaded."""


def add_embedding(sites: Sequence[Site], layer: LinearLayer) -> None:
    """BEGIN, position table into the residual, patches, and the patch embedding added in place."""
    name, patch_channels = "patch_embed", Channels.dense(sites[0].network.patch_dim)
    for site in sites:
        site.schedule.emit(name, Opcode.BEGIN, rows=site.schedule.tokens)
    patches = [site.take(patch_channels) for site in sites[:2]]  # one picture is loaded while another is embedded
    picture_bytes = sites[0].schedule.transfer_bytes(patches[0])

    def load(site: Site) -> None:
        source = (patches[site.picture % 2], Region.INPUT, site.picture * picture_bytes)
        site.schedule.load(name, (site.residual, Region.WEIGHTS, 0), source)

    load(sites[0])
    for site in sites:
        for following in sites[site.picture + 1 : site.picture + 2]:
            load(following)
        site.add_residual(name, layer, patches[site.picture % 2], EMBEDDING_RUNS)
    sites[0].schedule.release(*patches)


def add_block(sites: Sequence[Site], block: Block, name: str) -> None:
    """One transformer block, in place on the residuals."""
    normed = [site.add_norm(f"{name}.norm1", block.norm1) for site in sites]
    add_attention(sites, block, f"{name}.attn", normed)
    normed = [site.add_norm(f"{name}.norm2", block.norm2) for site in sites]
    for site, source in zip(sites, normed, strict=True):
        _add_mlp(site, block, f"{name}.mlp", source)


def _add_mlp(site: Site, block: Block, name: str, normed: Tensor) -> None:
    schedule, channels = site.schedule, Channels.dense(site.network.mlp_hidden)
    hidden = site.take(channels)
    constants = gelu_constants(site.network.delta1)
    schedule.gelu_linear(f"{name}.fc1", block.fc1, operand(normed), hidden, constants, ROW_PARTS)
    schedule.tap(f"{name}.fc1", hidden, "int8", channels)
    schedule.release(normed)
    site.add_residual(f"{name}.fc2", block.fc2, hidden)
    schedule.release(hidden)


def add_head(sites: Sequence[Site], norm: NormLayer, head: LinearLayer) -> list[Tensor]:
    """LayerNorm and classifier of the CLS rows; return the logits of each picture."""
    normed = [site.schedule.take(Memory.ACT, site.residual.stride, rows=1) for site in sites]
    for site, target in zip(sites, normed, strict=True):
        site.schedule.norm("norm", norm, site.residual, target, rows=1)
        site.schedule.tap("norm", target, "int8", site.dense, rows=1)
    words = Channels.dense(sites[0].network.num_classes).words(sites[0].depth)
    logits = [site.schedule.take(Memory.WIDE, words, rows=1) for site in sites]
    for site, source, target in zip(sites, normed, logits, strict=True):
        site.schedule.linear("head", Drain.WIDE, head, operand(source), target, rows=1)
    sites[0].schedule.release(*normed)
    return logits
