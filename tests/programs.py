"""Arrays and random networks that the compiler and machine tests share."""

import numpy as np

from hw.config import AccelConfig
from quant.reference import patchify, run
from quant.synthetic import random_config, random_network, random_picture

SHAPES = [(2, 8, 4), (4, 8, 8), (2, 16, 16), (8, 32, 8), (4, 16, 8), (2, 4, 2)]
"""(rows, columns, depth) with every ratio of the three."""


def array(shape, **sizes):
    """Return the config of an array with room for the networks of `case`, or with the sizes given."""
    rows, columns, depth = shape
    defaults = {"act_words": 8192, "wide_words": 4096, "weight_words": 4096, "param_words": 512, "max_tokens": 64}
    return AccelConfig(rows, columns, depth, **(defaults | sizes))


def case(seed, shape, **limits):
    """Return (network, golden inference, patches_i8 without the CLS row) drawn from the seed."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, random_config(rng, channel_multiple=shape[2], **limits))
    picture_u8 = random_picture(rng, network.config)
    return network, run(network, picture_u8), patchify(network, picture_u8)[1:]
