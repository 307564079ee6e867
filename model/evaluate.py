"""Measure a network: top-1 accuracy, live tokens after each selector, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from model.data import I64, Pictures, batches
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


def evaluate(network: nn.Module, config: NetworkConfig, pictures: Pictures, batch_size: int = 128) -> Evaluation:
    """Run the masked path on all pictures, as inference does it: no noise, the threshold decides.

    network maps uint8 pictures to an output with logits (B, classes) and num_tokens, one (B,) per selector.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    predictions, num_tokens = [], []
    with torch.no_grad():
        for pictures_u8, _ in batches(pictures, batch_size):
            output = network(torch.from_numpy(pictures_u8).to(device))
            predictions.append(output.logits.argmax(-1).cpu().numpy())
            live = [count.cpu().numpy() for count in output.num_tokens]
            num_tokens.append(np.stack(live, axis=-1) if live else np.zeros((len(pictures_u8), 0), np.int64))
    network.train(was_training)
    counts = np.concatenate(num_tokens)
    picture_macs = np.array([macs(config, row) for row in counts.tolist()], np.int64)
    dense_macs = macs(replace(config, selectors=()), ())
    return Evaluation(pictures.labels, np.concatenate(predictions), counts, picture_macs, dense_macs)


def macs(config: NetworkConfig, token_counts: Sequence[int]) -> int:
    """Return the multiply-accumulates of one picture, selectors included, tile waste and vector functions not.

    token_counts holds the live tokens after each selector. Padding (patch row 0, lanes, columns) costs nothing here:
    this is the conventional count that papers compare.
    """
    if len(token_counts) != len(config.selectors):
        raise ValueError(f"token_counts must have {len(config.selectors)} entries, not {token_counts!r}")
    dim, tokens = config.embed_dim, config.num_tokens
    total = config.num_patches * config.patch_dim * dim + dim * config.num_classes
    for block in range(config.depth):
        if block in config.selectors:
            total += tokens * _selector_macs_per_token(config)
            tokens = token_counts[config.selectors.index(block)]
        linear = 4 * dim * dim + 2 * dim * config.mlp_hidden  # q, k, v, proj, fc1, fc2
        attention = 2 * tokens * dim  # scores and context
        total += tokens * (linear + attention)
    return total


def _selector_macs_per_token(config: NetworkConfig) -> int:
    """Linear layers of docs/architecture.md section 2, with the token mean and the head mean as the GEMMs they are."""
    dim, heads, head_dim = config.embed_dim, config.num_heads, config.head_dim
    local = token1 = head_dim * (head_dim // 2)
    token2 = (head_dim // 2) * (head_dim // 4)
    token_score, pooled = head_dim // 4, head_dim // 2
    head_branch = config.head_branch_hidden * (dim + heads)
    return heads * (local + pooled + token1 + token2 + token_score) + head_branch
