"""Signal-to-noise ratio of every layer of an integer network: which layers lose most."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quant.config import NetworkConfig
from quant.convert import WIDE_SCALES
from quant.fake_quant import ABSENT, Format, Mode, Quantized
from quant.fast_golden import FastGolden
from quant.network import U8, IntegerNetwork
from quant.torch_forward import SCORE, run_batch
from quant.torch_layers import TorchLayers, scale_name
from quant.torch_selector import UNIT_U8, UNIT_U16

BATCH = 4
"""Pictures whose taps are held at once."""
FIXED_FORMATS = {".scores": SCORE, ".token_score": UNIT_U8, ".head_score": UNIT_U8, ".keep_score": UNIT_U16}
"""Formats that the contract fixes, by the end of the taps' names."""


@dataclass(frozen=True)
class LayerNoise:
    """Signal-to-noise ratios of one tap, in dB.

    snr_db: the golden model's codes against the float network's values, with all that was lost before this layer.
    rounding_db: the float values themselves rounded to the tap's codes, which is what this one format loses.
    """

    name: str
    snr_db: float
    rounding_db: float


@dataclass
class _Powers:
    """Sums of squares over the pictures."""

    signal: float = 0.0
    noise: float = 0.0
    rounding: float = 0.0


@dataclass
class _Floats:
    """Values of the taps of one batch, padding cut away."""

    num_tokens: int
    values: dict[str, Tensor] = field(default_factory=dict)

    def record(self, name: str, tensor: Quantized, valid: Tensor) -> None:
        """Keep a tap that has values; the slot of the package is empty, because nothing is pruned."""
        if tensor.value is not ABSENT:
            live = slice(self.num_tokens)
            self.values[name] = tensor.value[:, :, live, live] if tensor.value.ndim == 4 else tensor.value[:, live]


def signal_to_noise(
    parameters: Mapping[str, Tensor],
    network: IntegerNetwork,
    scales: Mapping[str, float],
    mean: Sequence[float],
    std: Sequence[float],
    pictures_u8: U8,
    progress: Callable[[int, int], None],
) -> list[LayerNoise]:
    """Return the noise of every layer, the worst first, on pictures (n, C, S, S); progress(done, total) is called.

    parameters and scales are those that the network was quantized from. Both networks keep every token, so that they
    compare the same ones. The float network has the polynomial GELU of the integer one, so that only what integers
    lose is noise.
    """
    config = network.config
    network = replace(network, selectors=tuple(replace(selector, threshold_u16=0) for selector in network.selectors))
    device = next(iter(parameters.values())).device
    golden = FastGolden(network, device)
    powers: defaultdict[str, _Powers] = defaultdict(_Powers)
    for start in range(0, len(pictures_u8), BATCH):
        batch = torch.as_tensor(pictures_u8[start : start + BATCH], device=device)
        floats = _float_taps(parameters, config, mean, std, batch)

        def compare(name: str, codes: Tensor, count: Tensor, floats: _Floats = floats) -> None:
            form = _format(name, scales, config.delta1)
            if form is not None:
                _add(powers[name], floats.values[name].to(torch.float64), codes.to(torch.float64), form)

        golden.run(batch, compare)
        progress(min(start + BATCH, len(pictures_u8)), len(pictures_u8))
    layers = [
        LayerNoise(name, _decibels(power.signal, power.noise), _decibels(power.signal, power.rounding))
        for name, power in powers.items()
    ]
    return sorted(layers, key=lambda layer: layer.snr_db)


def _float_taps(
    parameters: Mapping[str, Tensor],
    config: NetworkConfig,
    mean: Sequence[float],
    std: Sequence[float],
    batch_u8: Tensor,
) -> _Floats:
    floats = _Floats(config.num_tokens)
    net = TorchLayers(
        config,
        Mode.FLOAT,
        parameters=parameters,
        mean=tuple(mean),
        std=tuple(std),
        thresholds=(0,) * len(config.selectors),
        record=floats.record,
    )
    with torch.no_grad():
        run_batch(net, batch_u8)
    return floats


def _format(name: str, scales: Mapping[str, float], delta1: float) -> Format | None:
    """The codes of a tap; None for token indices and attention's un-normalised exponentials, which have no scale."""
    fixed = [form for end, form in FIXED_FORMATS.items() if name.endswith(end)]
    if fixed:
        return fixed[0]
    scale = scales.get(scale_name(name))
    if scale is None:
        return None
    if name.endswith(".fc1"):
        return Format.gelu(scale, delta1)
    return Format.signed(scale, 16 if scale_name(name) in WIDE_SCALES else 8)


def _add(power: _Powers, value: Tensor, codes: Tensor, form: Format) -> None:
    nearest = ((value - form.zero) / form.scale).round().clamp(form.low, form.high)
    power.signal += float(value.square().sum())
    power.noise += float((form.value(codes) - value).square().sum())
    power.rounding += float((form.value(nearest) - value).square().sum())


def _decibels(signal: float, noise: float) -> float:
    """10 log10 of a ratio, within +-200 dB: a layer without any noise, or without any signal, has no finite one."""
    if signal == 0 or noise == 0:
        return 200.0 if noise == 0 else -200.0
    return min(max(10 * math.log10(signal / noise), -200.0), 200.0)
