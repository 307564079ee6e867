"""Networks for a board: an integer network compiled for an accelerator, with pictures to try it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitstreams.compiled import CompiledNetwork, Samples
from heatvit.files import file_digest, new_file
from heatvit.pictures import load_all, open_pictures
from hw.config import AccelConfig, load_config
from hw.isa import DESCRIPTOR_BYTES
from hw.program import compile_network
from quant import reference
from quant.network import U8, IntegerNetwork
from quant.network_file import load_network

UNKNOWN_LABEL = -1


def compile_file(
    network_file: Path, config_name: str, out: Path, pictures: int, images: str | None, count: int
) -> dict[str, Any]:
    """Compile an integer network for runs of `pictures` pictures and write it for the board.

    With images, the first `count` of them are stored with what the golden model says of them.
    """
    network, config = load_network(network_file), load_config(config_name)
    samples = None if images is None else _samples(network, images, count)
    compiled = compile_for_board(network, config, pictures, samples)
    with new_file(out) as temporary:
        compiled.save(temporary)
    return {
        "compiled": str(out),
        "compiled_sha256": file_digest(out),
        "bytes": out.stat().st_size,
        "network_sha256": file_digest(network_file),
        "config": config.to_dict(),
        "config_hash": f"0x{config.hash32:08x}",
        "pictures_a_run": pictures,
        "descriptors": len(compiled.descriptors) // DESCRIPTOR_BYTES,
        "samples": 0 if samples is None else len(samples.labels),
    }


def compile_for_board(
    network: IntegerNetwork, config: AccelConfig, pictures: int = 1, samples: Samples | None = None
) -> CompiledNetwork:
    """Compile a network for an accelerator. Raises ValueError if it does not fit."""
    program = compile_network(network, config, pictures=pictures)
    return CompiledNetwork(
        config=config,
        network_config=network.config,
        pictures=pictures,
        descriptors=program.program_bytes(),
        weights=program.weights,
        output_bytes=program.output_bytes,
        input_lut_i8=network.input_lut_i8,
        logit_scale=float(network.logit_scale),
        samples=samples,
    )


def make_samples(network: IntegerNetwork, pictures_u8: U8, labels: Any) -> Samples:
    """Return pictures with what the golden model says of them; labels (N,), UNKNOWN_LABEL where there is none."""
    golden = [reference.run(network, picture, taps=False) for picture in pictures_u8]
    num_tokens = np.array([inference.num_tokens for inference in golden], np.int64)
    return Samples(
        pictures_u8,
        np.stack([inference.logits_i16 for inference in golden]),
        num_tokens.reshape(len(golden), len(network.selectors)),
        np.asarray(labels, np.int64),
    )


def _samples(network: IntegerNetwork, images: str, count: int) -> Samples:
    pictures, is_labelled = open_pictures(images, network.config, count)
    labels = pictures.labels if is_labelled else np.full(len(pictures.labels), UNKNOWN_LABEL)
    return make_samples(network, load_all(pictures), labels)
