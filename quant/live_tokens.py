"""Live tokens of a batch of pictures, the pruned ones really gone: each picture's rows in front, then padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quant.reference import PACKAGE_TOKEN


@dataclass(frozen=True)
class LiveTokens:
    """residual (B, N, D), number of live tokens (B,), and their indices (B, N) as quant.reference counts them.

    N is at least the largest count; what is beyond a picture's count is padding of any value.
    """

    residual: Tensor
    count: Tensor
    index: Tensor

    @classmethod
    def all_of(cls, residual: Tensor) -> LiveTokens:
        """Every row of a batch is live: CLS and the patches."""
        batch, num_tokens, _ = residual.shape
        count = torch.full((batch,), num_tokens, device=residual.device)
        return cls(residual, count, torch.arange(num_tokens, device=residual.device).expand(batch, -1))

    @property
    def valid(self) -> Tensor:
        """The live rows, (B, N) bool."""
        return torch.arange(self.residual.shape[1], device=self.count.device) < self.count[:, None]

    @property
    def is_package(self) -> Tensor:
        """The rows that are package tokens, (B, N) bool."""
        return self.index == PACKAGE_TOKEN

    @property
    def padding_mask(self) -> Tensor | None:
        """`valid`, or None if there is no padding."""
        return self.valid if bool((self.count < self.residual.shape[1]).any()) else None

    def with_residual(self, residual: Tensor) -> LiveTokens:
        """The same tokens with other values."""
        return LiveTokens(residual, self.count, self.index)

    def select(self, kept: Tensor, merged: Tensor, package: Tensor) -> LiveTokens:
        """Keep some rows, in their order, and put the package (B, D) behind them where something is merged.

        kept and merged (B, N) bool divide the live rows between them. N shrinks to the largest count.
        """
        num_kept, has_package = kept.sum(dim=1), merged.any(dim=1)
        count = num_kept + has_package
        order = torch.argsort(~kept, dim=1, stable=True)[:, : int(count.max())]
        rows = torch.arange(order.shape[1], device=order.device)
        is_new = (rows == num_kept[:, None]) & has_package[:, None]
        residual = self.residual.gather(1, order[..., None].expand(-1, -1, self.residual.shape[2]))
        residual = torch.where(is_new[..., None], package[:, None], residual)
        index = torch.where(is_new, PACKAGE_TOKEN, self.index.gather(1, order))
        # A padding row must not look like a package.
        return LiveTokens(residual, count, torch.where(rows < count[:, None], index, 0))
