"""Patch codes of a picture: what the host makes of its pixels, on the board too.

Imports: numpy and modules that import nothing else, so that it also runs on the board.
"""

from __future__ import annotations

import numpy as np

from quant.config import NetworkConfig
from quant.network import I8, U8


def picture_shape(config: NetworkConfig) -> tuple[int, int, int]:
    """Return the shape of a picture: (in_chans, image_size, image_size)."""
    return config.in_chans, config.image_size, config.image_size


def patch_codes(picture_u8: U8, input_lut_i8: I8, config: NetworkConfig) -> I8:
    """Return the codes (num_patches, patch_dim) of a uint8 picture (in_chans, image_size, image_size).

    input_lut_i8 is that of quant.network.IntegerNetwork. A patch is flattened in the order (channel, row, column);
    patches run row by row. Raises ValueError if the picture has another type or shape.
    """
    shape = picture_shape(config)
    if picture_u8.dtype != np.uint8 or picture_u8.shape != shape:
        raise ValueError(f"picture must be uint8 {shape}, not {picture_u8.dtype} {picture_u8.shape}")
    codes = np.take_along_axis(input_lut_i8, picture_u8.reshape(config.in_chans, -1).astype(np.int64), axis=1)
    side, patch = config.image_size // config.patch_size, config.patch_size
    grid = codes.reshape(config.in_chans, side, patch, side, patch).transpose(1, 3, 0, 2, 4)  # (row, col, C, P, P)
    patches_i8: I8 = grid.reshape(config.num_patches, config.patch_dim)
    return patches_i8
