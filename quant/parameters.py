"""Names and shapes of the float parameters that conversion takes."""

from __future__ import annotations

from quant.config import NetworkConfig


def parameter_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every float parameter: timm's for the transformer, ours for the selectors."""
    dim, heads, head_dim, hidden = config.embed_dim, config.num_heads, config.head_dim, config.head_branch_hidden
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pos_embed": (1, config.num_tokens, dim)}
    weights: dict[str, tuple[int, ...]] = {
        "patch_embed.proj": (dim, config.in_chans, config.patch_size, config.patch_size),
        "norm": (dim,),
        "head": (config.num_classes, dim),
    }
    for number in range(config.depth):
        weights |= {
            f"blocks.{number}.norm1": (dim,),
            f"blocks.{number}.attn.qkv": (3 * dim, dim),
            f"blocks.{number}.attn.proj": (dim, dim),
            f"blocks.{number}.norm2": (dim,),
            f"blocks.{number}.mlp.fc1": (config.mlp_hidden, dim),
            f"blocks.{number}.mlp.fc2": (dim, config.mlp_hidden),
        }
    for number in range(len(config.selectors)):
        weights |= {
            f"selectors.{number}.norm": (dim,),
            f"selectors.{number}.local": (heads, head_dim // 2, head_dim),
            f"selectors.{number}.token1": (heads, head_dim // 2, head_dim),
            f"selectors.{number}.token2": (heads, head_dim // 4, head_dim // 2),
            f"selectors.{number}.token_score": (heads, 2, head_dim // 4),
            f"selectors.{number}.head1": (hidden, heads),
            f"selectors.{number}.head_score": (heads, hidden),
        }
    for name, shape in weights.items():
        shapes[f"{name}.weight"] = shape
        # A bias has one value an output channel; the last axis of a head's layer is its input.
        shapes[f"{name}.bias"] = shape[:2] if len(shape) == 3 else shape[:1]
    for number in range(len(config.selectors)):
        shapes[f"selectors.{number}.package_bias"] = (heads,)
    return shapes
