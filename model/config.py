"""Named networks: the demo, the DeiT family and the one that unit tests use."""

from __future__ import annotations

import json
from pathlib import Path

from quant.config import NetworkConfig


def _deit(embed_dim: int, num_heads: int) -> NetworkConfig:
    """Return a DeiT with HeatViT's three selectors (blocks 4, 7 and 10 counted from one)."""
    return NetworkConfig(
        image_size=224,
        patch_size=16,
        in_chans=3,
        num_classes=1000,
        embed_dim=embed_dim,
        depth=12,
        num_heads=num_heads,
        mlp_hidden=4 * embed_dim,
        selectors=(3, 6, 9),
    )


NETWORKS: dict[str, NetworkConfig] = {
    # The demo: 49 patches of 4 x 4 pixels, trained in minutes on a laptop.
    "digits": NetworkConfig(
        image_size=28,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=48,
        depth=4,
        num_heads=3,
        mlp_hidden=96,
        selectors=(1, 2),
    ),
    # The study of delta1 and delta2 (heatvit/delta_study.py): colour, 64 patches, trained from scratch in minutes.
    "cifar10": NetworkConfig(
        image_size=32,
        patch_size=4,
        in_chans=3,
        num_classes=10,
        embed_dim=48,
        depth=4,
        num_heads=3,
        mlp_hidden=96,
    ),
    "deit_tiny": _deit(embed_dim=192, num_heads=3),
    "deit_small": _deit(embed_dim=384, num_heads=6),
    "deit_base": _deit(embed_dim=768, num_heads=12),
    # Smallest network with every feature: two selectors, so a package meets a selector.
    "test_tiny": NetworkConfig(
        image_size=16,
        patch_size=4,
        in_chans=1,
        num_classes=3,
        embed_dim=16,
        depth=3,
        num_heads=2,
        mlp_hidden=32,
        selectors=(1, 2),
    ),
}


def load_network_config(name_or_path: str) -> NetworkConfig:
    """Return a named network, or read one from a JSON file. Raises ValueError naming what is allowed."""
    if name_or_path in NETWORKS:
        return NETWORKS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".json" or not path.is_file():
        raise ValueError(f"network must be one of {', '.join(NETWORKS)} or a .json file, not {name_or_path!r}")
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"network file {name_or_path!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"network file {name_or_path!r} must hold a JSON object")
    return NetworkConfig.from_dict(values)
