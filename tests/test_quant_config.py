"""The network topology.

Testpoints: derived sizes; the stage of a block; dictionary round trip; every refusal names the field; unknown and
missing fields.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quant.config import NetworkConfig

CONFIG = NetworkConfig(28, 4, 1, 10, 64, 6, 4, 128, selectors=(2, 4), delta1=0.5)


def test_derived_sizes() -> None:
    assert (CONFIG.head_dim, CONFIG.num_patches, CONFIG.num_tokens, CONFIG.patch_dim) == (16, 49, 50, 16)
    assert CONFIG.head_branch_hidden == 2
    assert replace(CONFIG, num_heads=1).head_branch_hidden == 1


def test_stage_of_a_block() -> None:
    assert [CONFIG.stage_of(block) for block in range(6)] == [None, None, 0, 0, 1, 1]
    assert replace(CONFIG, selectors=()).stage_of(5) is None


def test_dictionary_round_trip() -> None:
    assert NetworkConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert CONFIG.to_dict()["selectors"] == [2, 4]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 0, "image_size must be a positive integer, not 0"),
        ("depth", 2.0, "depth must be a positive integer, not 2.0"),
        ("patch_size", 5, "image_size must be a multiple of patch_size 5, not 28"),
        ("num_heads", 3, "embed_dim must be num_heads"),
        ("embed_dim", 24, "embed_dim must be num_heads"),
        ("selectors", (4, 2), "selectors must be ascending"),
        ("selectors", (2, 2), "selectors must be ascending"),
        ("selectors", (6,), r"selectors must be ascending blocks in 0..5, not \(6,\)"),
        ("delta1", 0.0, "delta1 must be in"),
        ("delta2", 1.5, "delta2 must be in"),
        ("delta2", float("nan"), "delta2 must be in"),
    ],
)
def test_refusals_name_the_field(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **{field: value})


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match="unknown network field 'width'"):
        NetworkConfig.from_dict({**CONFIG.to_dict(), "width": 3})
    values = CONFIG.to_dict()
    del values["depth"]
    with pytest.raises(ValueError, match=r"incomplete: .*depth"):
        NetworkConfig.from_dict(values)
