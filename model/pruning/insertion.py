"""Block-to-stage insertion: where selectors sit and how much each keeps, under a latency limit.

Source: HeatViT (HPCA 2023) section VI. From the last block to the front, a selector is put before a block and keeps
less and less until the network suffers, or the limit is met; neighbours that keep about the same become one stage.
What is different here: all candidate selectors were trained beforehand (model/pruning/warm_start.py), and the network's
suffering is the divergence of its classes from the dense network's, which needs no labels and tells more than top-1
does on a few pictures. How much each selector may cost is not known beforehand: little makes many gentle stages that
reach far to the front, much makes few and hard ones behind. So several allowances are tried, and the plan that diverges
least under the limit is taken. Blocks before the one in question are still the dense network's, so their tokens are
computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.inference import infer, infer_from
from model.losses import logit_divergence_loss
from model.pruning.latency import KeepRatios, LatencyTable, LimitError, fit_to_limit, mean_tokens, merge_stages
from model.vit import VisionTransformer
from quant.config import NetworkConfig
from quant.network import U8

RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
BATCH = 16


@dataclass(frozen=True)
class InsertionRule:
    """When a selector keeps enough, and when two are one.

    first_block is the earliest block that may get a selector: front tokens are too weakly encoded. max_divergence, in
    nats per picture, is what one selector may add to the divergence from the dense network: several values to choose
    from. Selectors whose ratios differ by less than merge_below are merged.
    """

    first_block: int
    max_divergence: tuple[float, ...]
    merge_below: float

    def __post_init__(self) -> None:
        if not isinstance(self.first_block, int) or self.first_block < 1:
            raise ValueError(f"first_block must be an integer of at least 1, not {self.first_block!r}")
        if not self.max_divergence or not all(0 < value < 1 for value in self.max_divergence):
            raise ValueError(f"max_divergence must be numbers between 0 and 1, not {self.max_divergence!r}")
        if not 0 < self.merge_below < 1:
            raise ValueError(f"merge_below must be between 0 and 1, not {self.merge_below!r}")


def with_selectors(network: VisionTransformer, blocks: tuple[int, ...]) -> VisionTransformer:
    """Return a view of the network, sharing its parameters, with only the selectors before these of its blocks."""
    config = replace(network.config, selectors=blocks)
    view = VisionTransformer(config, network.normalisation, network.kernels, network.has_package)
    view.load_state_dict(network.state_dict(), strict=False, assign=True)
    view.selectors = nn.ModuleList(network.selectors[network.config.selectors.index(block)] for block in blocks)
    return view.eval()


class Divergence:
    """Mean divergence from the dense network's classes of a network with selectors at given ratios.

    candidates has a selector before every block that may get one; pictures_u8 (n, C, S, S) are held out. What was
    measured once is remembered, because plans of different limits and allowances begin alike.
    """

    def __init__(self, candidates: VisionTransformer, pictures_u8: U8) -> None:
        self.candidates = candidates
        self.batches = torch.split(torch.from_numpy(pictures_u8).to(candidates.cls_token.device), BATCH)
        dense = with_selectors(candidates, ())
        self.expected = [infer(dense, batch, dense.kernels).logits for batch in self.batches]
        self.entering: dict[int, list[Tensor]] = {}
        self._measured: dict[tuple[tuple[int, float], ...], float] = {}
        with torch.inference_mode():
            for batch in self.batches:
                self._keep_tokens(dense, batch)

    def _keep_tokens(self, dense: VisionTransformer, batch: Tensor) -> None:
        tokens = dense.embed(batch)
        valid = tokens.new_ones(tokens.shape[:2])
        for number, block in enumerate(dense.blocks):
            if number in self.candidates.config.selectors:
                self.entering.setdefault(number, []).append(tokens)
            tokens = block(tokens, valid, dense.kernels)

    def __call__(self, keep: KeepRatios) -> float:
        """Return nats per picture; keep must name at least one block."""
        key = tuple(sorted(keep.items()))
        if key not in self._measured:
            self._measured[key] = self._measure(keep)
        return self._measured[key]

    def _measure(self, keep: KeepRatios) -> float:
        blocks = tuple(sorted(keep))
        network = with_selectors(self.candidates, blocks)
        counts = [round(mean_tokens(network.config, keep[block])) for block in blocks]
        total = 0.0
        for tokens, expected in zip(self.entering[blocks[0]], self.expected, strict=True):
            logits = infer_from(network, tokens, blocks[0], network.kernels, counts).logits
            total += float(logit_divergence_loss(logits, expected)) * len(expected)
        return total / sum(map(len, self.expected))


def insert_selectors(
    divergence: Callable[[KeepRatios], float],
    table: LatencyTable,
    config: NetworkConfig,
    rule: InsertionRule,
    limit: float,
    report: Callable[[int], None],
) -> dict[int, float]:
    """Return block -> keep ratio of the stages that meet the limit, cycles a picture, exactly.

    Of the plans that the values of rule.max_divergence give, the one that diverges least. divergence measures a network
    of given ratios; report(block) is called as each block is done. Where the front is reached before the limit is met,
    or the last insertion passes it, all ratios are scaled (`fit_to_limit`). Raises ValueError if no plan is possible.
    """
    plans, refusal = [], None
    for max_divergence in rule.max_divergence:
        if keep := _insert(divergence, table, config, rule.first_block, max_divergence, limit, report):
            try:
                plans.append(fit_to_limit(table, config, merge_stages(keep, rule.merge_below), limit))
            except LimitError as error:  # its selectors sit too far behind; another allowance reaches further
                refusal = error
    if not plans:
        raise refusal or ValueError(
            f"max_divergence must allow a selector somewhere; {rule.max_divergence!r} allow none"
        )
    return min(plans, key=divergence)


def _insert(
    divergence: Callable[[KeepRatios], float],
    table: LatencyTable,
    config: NetworkConfig,
    first_block: int,
    max_divergence: float,
    limit: float,
    report: Callable[[int], None],
) -> KeepRatios:
    """Return block -> keep ratio from the last block to where the limit is met, or to first_block."""
    keep: dict[int, float] = {}
    reached, cycles = 0.0, table.cycles(config, keep)
    for block in reversed(range(first_block, config.depth)):
        before = reached
        for ratio in RATIOS:
            # What leaves here is gone behind, too.
            tried = {block: ratio} | {other: min(kept, ratio) for other, kept in keep.items() if other != block}
            if (faster := table.cycles(config, tried)) >= cycles:
                continue  # it does not pay: the selector's own cycles, or blocks that wait for their weights
            found = divergence(tried)
            if found - before > max_divergence:
                break
            keep, reached, cycles = tried, found, faster
            if cycles <= limit:
                break
        report(block)
        if cycles <= limit:
            break
    return keep
