"""Quantization-aware training: the 8-bit network as a module whose forward is the integer arithmetic, exactly.

Every step quantizes the float parameters by the function that conversion uses and runs the integer layers on them;
gradients pass straight through the roundings. The exported network gives the codes that training saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.vit import VisionTransformer
from quant.bounds import prove_bounds
from quant.convert import calibrate, to_arrays
from quant.fake_quant import Mode
from quant.network import U8, IntegerNetwork
from quant.quantize import quantize
from quant.torch_forward import run_batch
from quant.torch_layers import Recorder, TorchLayers, ignore_tap


class QatOutput(NamedTuple):
    """What a batch gives; gradients unless they are off.

    logits (B, classes). Of each selector: keep_masks (B, num_patches) float 0 or 1, what all selectors so far left
    alive, with straight-through gradients; keep_scores (B, num_patches) in [0, 1]; num_tokens (B,) live tokens after
    it, CLS and package included. residuals, empty without gradients: what leaves each block (B, slots, D), and which
    slots of it are live (B, slots) float 0 or 1.
    """

    logits: Tensor
    keep_masks: list[Tensor]
    keep_scores: list[Tensor]
    num_tokens: list[Tensor]
    residuals: list[tuple[Tensor, Tensor]]


class QatNetwork(nn.Module):
    """A float network trained through its own quantization.

    network holds the parameters, topology and normalisation; scales are the fixed activation scales of
    quant.convert.calibrate; thresholds, one per selector in 0..65535, default to 0.5. A selector's decision is the
    hard threshold on its integer score. Without gradients only the integers are computed, which is also the
    fast way to evaluate many pictures.
    """

    def __init__(
        self, network: VisionTransformer, scales: Mapping[str, float], thresholds: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.scales = dict(scales)
        self.thresholds = thresholds

    @classmethod
    def calibrated(
        cls, network: VisionTransformer, pictures_u8: U8, thresholds: Sequence[int] | None = None
    ) -> QatNetwork:
        """Wrap a float network with the activation scales that pictures (n, C, S, S) give."""
        mean, std = network.normalisation.mean, network.normalisation.std
        parameters = dict(network.named_parameters())
        scales = calibrate(parameters, network.config, pictures_u8, mean, std, thresholds)
        return cls(network, scales, thresholds)

    def forward(self, pictures_u8: Tensor, record: Recorder = ignore_tap) -> QatOutput:
        """Run uint8 pictures (B, C, S, S); record receives every tap. Autocast is off: it would round the integers."""
        with torch.autocast(pictures_u8.device.type, enabled=False):
            return self._run(pictures_u8, record)

    def _run(self, pictures_u8: Tensor, record: Recorder) -> QatOutput:
        integers, config = self._quantized(), self.network.config
        residuals: list[tuple[Tensor, Tensor]] = []
        if torch.is_grad_enabled():
            parameters = dict(self.network.named_parameters())
            net = TorchLayers(config, Mode.TRAIN, parameters, integers, self.scales, record=record)
            result = run_batch(net, pictures_u8)
            logits = result.logits.value
            residuals = [(tokens.residual.value, tokens.valid.float()) for tokens in result.residuals]
        else:
            net = TorchLayers(config, Mode.INTEGER, network=integers, record=record)
            result = run_batch(net, pictures_u8)
            logits = (result.logits.codes * integers.logit_scale).to(torch.float32)
        return QatOutput(logits, result.keep_masks, result.keep_scores, result.num_tokens, residuals)

    def export(self) -> IntegerNetwork:
        """Return the integer network of the current parameters. Raises ValueError if an accumulator could overflow."""
        network = to_arrays(self._quantized())
        prove_bounds(network)
        return network

    def _quantized(self) -> IntegerNetwork:
        network = self.network
        mean, std = network.normalisation.mean, network.normalisation.std
        return quantize(dict(network.named_parameters()), network.config, self.scales, mean, std, self.thresholds)
