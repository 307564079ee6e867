"""Network topology: the one description that model, quantizer and compiler share, saved beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class NetworkConfig:
    """Topology of a Vision Transformer with token selectors (timm's words).

    image_size and patch_size in pixels (square), embed_dim D, mlp_hidden F, num_heads H. selectors names the
    0-based blocks before which a token selector sits, ascending. delta1 scales the erf of GELU (HeatViT Eq. 12),
    delta2 the attention softmax (Eq. 13); both in (0, 1]. The selector's own functions always use 1.
    """

    image_size: int
    patch_size: int
    in_chans: int
    num_classes: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden: int
    selectors: tuple[int, ...] = ()
    delta1: float = 1.0
    delta2: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{field.name} must be a positive integer, not {value!r}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size {self.patch_size}, not {self.image_size!r}")
        if self.embed_dim % self.num_heads or self.head_dim % 4:
            raise ValueError(
                "embed_dim must be num_heads * head_dim with head_dim a multiple of 4, "
                f"not {self.embed_dim!r} with {self.num_heads!r} heads"
            )
        if list(self.selectors) != sorted(set(self.selectors)) or not all(
            0 <= block < self.depth for block in self.selectors
        ):
            raise ValueError(f"selectors must be ascending blocks in 0..{self.depth - 1}, not {self.selectors!r}")
        for name in ("delta1", "delta2"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {getattr(self, name)!r}")

    @property
    def head_dim(self) -> int:
        """Channels of one head, d."""
        return self.embed_dim // self.num_heads

    def stage_of(self, block: int) -> int | None:
        """Number of the last selector that the tokens of a block have passed; None before the first."""
        passed = sum(selector <= block for selector in self.selectors)
        return passed - 1 if passed else None

    @property
    def num_patches(self) -> int:
        """Patch tokens of a picture, CLS not included."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Tokens entering block 0: the patches and CLS. Selection never makes it larger."""
        return self.num_patches + 1

    @property
    def patch_dim(self) -> int:
        """Values of one flattened patch, ordered (channel, row, column) as in timm's convolution weight."""
        return self.in_chans * self.patch_size**2

    @property
    def head_branch_hidden(self) -> int:
        """Hidden width of the selector's head-attention branch: H // 2, at least 1 (SPViT code)."""
        return max(self.num_heads // 2, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "selectors": list(self.selectors)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """Inverse of to_dict. Raises ValueError naming an unknown or missing field."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown network field {unknown[0]!r}, allowed: {', '.join(sorted(known))}")
        try:
            return cls(**{**values, "selectors": tuple(values.get("selectors", ()))})
        except TypeError as error:
            raise ValueError(f"network description is incomplete: {error}") from error
