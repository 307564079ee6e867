"""Measure a network: top-1 accuracy, live tokens after each selector, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from model.data import I64, Pictures, batches
from model.distributed import ALONE, Processes
from quant.config import NetworkConfig


@dataclass(frozen=True)
class Evaluation:
    """What a network did on a set of pictures.

    predictions (pictures,); num_tokens (pictures, selectors) live tokens after each selector, CLS and package
    included; macs (pictures,) multiply-accumulates; dense_macs those of the same network without selectors.
    """

    labels: I64
    predictions: I64
    num_tokens: I64
    macs: I64
    dense_macs: int

    @property
    def top1(self) -> float:
        """Share of pictures whose most likely class is the label."""
        return float((self.predictions == self.labels).mean())

    @property
    def macs_ratio(self) -> float:
        """Mean multiply-accumulates, selectors included, over those of the dense network."""
        return float(self.macs.mean()) / self.dense_macs


def evaluate(
    network: nn.Module, config: NetworkConfig, pictures: Pictures, batch_size: int = 128, processes: Processes = ALONE
) -> Evaluation:
    """Run the masked path on all pictures, as inference does it: no noise, the threshold decides.

    network maps uint8 pictures to an output with logits (B, classes) and num_tokens, one (B,) per selector. Several
    processes take a share of the pictures each and return the same.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    predictions = [np.zeros(0, np.int64)]
    num_tokens = [np.zeros((0, len(config.selectors)), np.int64)]
    with torch.no_grad():
        for pictures_u8, _ in batches(pictures, batch_size, processes.share(np.arange(len(pictures.labels)))):
            output = network(torch.from_numpy(pictures_u8).to(device))
            predictions.append(output.logits.argmax(-1).cpu().numpy())
            live = [count.cpu().numpy() for count in output.num_tokens]
            num_tokens.append(np.stack(live, axis=-1) if live else np.zeros((len(pictures_u8), 0), np.int64))
    network.train(was_training)
    counts = processes.collect(np.concatenate(num_tokens))
    picture_macs = np.array([macs(config, row) for row in counts.tolist()], np.int64)
    dense_macs = macs(replace(config, selectors=()), ())
    classes = processes.collect(np.concatenate(predictions))
    return Evaluation(pictures.labels, classes, counts, picture_macs, dense_macs)


def macs(config: NetworkConfig, token_counts: Sequence[int]) -> int:
    """Return the multiply-accumulates of one picture: the sum of `layer_macs`."""
    return sum(layer_macs(config, token_counts).values())


def layer_macs(config: NetworkConfig, token_counts: Sequence[int]) -> dict[str, int]:
    """Return the multiply-accumulates of each layer of one picture, selectors included, in order of computation.

    token_counts holds the live tokens after each selector; names are those of docs/architecture.md section 2. Tile
    waste and vector functions are not counted, and padding (patch row 0, lanes, columns) costs nothing: this is the
    conventional count that papers compare. Raises ValueError if token_counts has another length.
    """
    if len(token_counts) != len(config.selectors):
        raise ValueError(f"token_counts must have {len(config.selectors)} entries, not {token_counts!r}")
    dim, tokens = config.embed_dim, config.num_tokens
    result = {"patch_embed": config.num_patches * config.patch_dim * dim}
    for block in range(config.depth):
        if block in config.selectors:
            stage = config.selectors.index(block)
            per_token = _selector_macs_per_token(config)
            result |= {f"selectors.{stage}.{name}": tokens * count for name, count in per_token.items()}
            tokens = token_counts[stage]
        per_token = {
            **{f"attn.{name}": dim * dim for name in ("q", "k", "v")},
            "attn.scores": tokens * dim,
            "attn.context": tokens * dim,
            "attn.proj": dim * dim,
            "mlp.fc1": dim * config.mlp_hidden,
            "mlp.fc2": dim * config.mlp_hidden,
        }
        result |= {f"blocks.{block}.{name}": tokens * count for name, count in per_token.items()}
    return {**result, "head": dim * config.num_classes}


def _selector_macs_per_token(config: NetworkConfig) -> dict[str, int]:
    """Linear layers of docs/architecture.md section 2, with the token mean and the head mean as the GEMMs they are."""
    dim, heads, head_dim = config.embed_dim, config.num_heads, config.head_dim
    return {
        "local": heads * head_dim * (head_dim // 2),
        "pooled": heads * (head_dim // 2),
        "token1": heads * head_dim * (head_dim // 2),
        "token2": heads * (head_dim // 2) * (head_dim // 4),
        "token_score": heads * (head_dim // 4),
        "head1": config.head_branch_hidden * dim,
        "head_score": config.head_branch_hidden * heads,
    }
