"""What the benchmarks measure: a float network made integer after training, pictures, and a simulated accelerator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heatvit.files import file_digest
from heatvit.flow import is_integer_network
from heatvit.pictures import load_all, open_pictures
from heatvit.progress import Report
from hw.config import AccelConfig, load_config
from model.checkpoint import load_timm
from model.config import load_network_config
from model.data import SubsetPictures
from model.vit import IMAGENET
from quant.config import NetworkConfig
from quant.convert import convert
from quant.network import U8, IntegerNetwork
from sim.cosim import build_process_core
from sim.verilator import SimulationModel

CALIBRATION_PICTURES = 16


@dataclass(frozen=True)
class Subject:
    """A network, its pictures and an accelerator, by name.

    weights is a timm state dict, whose topology is `network`; selectors that it does not hold are random: good for
    cycles, not for accuracy. Or it is an integer network, which is taken as it is.
    calibrate names the pictures that fix the scales; by default the last of `images`, which must not be among those
    measured. work is the folder of generated files and builds.
    """

    network: str
    weights: Path
    images: str
    config: str
    calibrate: str | None
    work: Path

    def load_config(self) -> AccelConfig:
        """Return the accelerator."""
        return load_config(self.config)

    @property
    def is_integer(self) -> bool:
        """Whether the weights are an integer network."""
        return self.weights.suffix == ".safetensors" and self.weights.is_file() and is_integer_network(self.weights)

    def load_pictures(self, topology: NetworkConfig, count: int) -> U8:
        """Return the first `count` pictures (B, in_chans, image_size, image_size) of a topology."""
        return load_all(open_pictures(self.images, topology, count)[0])

    def calibration_pictures(self) -> U8:
        """Return the last pictures of the calibration source."""
        source = self.images if self.calibrate is None else self.calibrate
        pictures, _ = open_pictures(source, load_network_config(self.network))
        number = len(pictures.labels)
        return load_all(SubsetPictures(pictures, np.arange(max(number - CALIBRATION_PICTURES, 0), number)))

    def quantize(self, has_selectors: bool, report: Report) -> IntegerNetwork:
        """Return the integer network, with its selectors or with all tokens in every block."""
        report("quantize", 0, 1)
        topology = load_network_config(self.network)
        torch.manual_seed(0)  # of selectors that the weights do not hold
        state = load_timm(self.weights, topology, IMAGENET).state_dict()
        if not has_selectors:
            topology = replace(topology, selectors=())
            state = {name: tensor for name, tensor in state.items() if not name.startswith("selectors.")}
        network = convert(state, topology, self.calibration_pictures(), IMAGENET.mean, IMAGENET.std)
        report("quantize", 1, 1)
        return network

    def build(self, report: Report) -> SimulationModel:
        """Return the simulated accelerator, from the work folder if it was built before."""
        report("build", 0, 1)
        model = build_process_core(self.load_config(), self.work.resolve())
        report("build", 1, 1)
        return model

    def to_dict(self) -> dict[str, Any]:
        """Return what identifies the subject as JSON types."""
        return {
            "network": self.network,
            "weights": str(self.weights),
            "weights_sha256": file_digest(self.weights),
            "images": self.images,
            "calibrate": self.calibrate,
            "config": self.load_config().to_dict(),
        }


def without_selectors(network: IntegerNetwork) -> IntegerNetwork:
    """Return the same network with all tokens in every block."""
    return replace(network, config=replace(network.config, selectors=()), selectors=())
