"""Post-training quantization of checkpoints that were trained with the exact GELU and softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from quant.config import NetworkConfig
from quant.context_fit import fit_contexts
from quant.convert import calibrate
from quant.equalize import equalize
from quant.gelu_fit import fit_gelu
from quant.network import U8


def adapt(
    parameters: Mapping[str, Tensor],
    config: NetworkConfig,
    pictures_u8: U8,
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return parameters and activation scales for quant.convert.export, made for pictures (n, C, S, S).

    Nothing is trained: channels are equalized, ranges are observed, and the polynomial GELU and the contexts of the
    integer softmax are fitted to the exact ones. Each fit sees the float network as it was before the others.
    """
    equalized = equalize(parameters, config, pictures_u8, mean, std, thresholds)
    scales = calibrate(equalized, config, pictures_u8, mean, std, thresholds)
    fitted, fitted_scales = fit_gelu(equalized, config, scales, pictures_u8, mean, std, thresholds)
    projected = fit_contexts(equalized, config, pictures_u8, mean, std, thresholds)
    return fitted | {name: value for name, value in projected.items() if ".attn.proj." in name}, fitted_scales
