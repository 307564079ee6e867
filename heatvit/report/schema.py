"""What report.json holds: plain JSON types with named fields."""

from __future__ import annotations

from typing import Any, TypedDict


class Accuracy(TypedDict):
    """Top-1 fractions on the whole held-out test set."""

    float_dense: float
    golden_dense: float
    golden_pruned: float


class Macs(TypedDict):
    """Multiply-accumulates of one picture: the dense network, and the pruned one's mean over the test set."""

    dense: int
    pruned_mean: float


class CurvePoint(TypedDict):
    """The integer network with thresholds at which each selector keeps about keep_share of the patches it sees."""

    keep_share: float
    accuracy: float
    macs: float


class Rtl(TypedDict):
    """RTL against golden: kept_tokens is [picture][selector] live tokens, cycles one count a picture."""

    images: int
    mismatches: int
    layers_compared: int
    first_divergence: str | None
    kept_tokens: list[list[int]]
    cycles: list[int]
    unit_busy: dict[str, float]
    unit_wait: dict[str, float]


class Report(TypedDict):
    """One run of the demo.

    kept_tokens_histogram is [selector][live tokens] pictures of the test set; unit_busy and unit_wait the
    fractions of all cycles in which a unit had a descriptor, and waited for another unit; seconds the wall-clock of
    each step when it last ran.
    """

    title: str
    network: dict[str, Any]
    config_name: str
    config: dict[str, int]
    config_hash: str
    verilog_sha256: str
    test_images: int
    accuracy: Accuracy
    macs: Macs
    curve: list[CurvePoint]
    kept_tokens_histogram: list[list[int]]
    qat_equals_golden: bool
    qat_images: int
    rtl: Rtl
    seconds: dict[str, float]
    methods: list[str]
