"""A small network on a simulated ZCU102, for the tests of the overlay package."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager

import numpy as np

from heatvit.compiled import compile_for_board
from hw.config import CONFIGS
from hw.regmap import REGISTERS, Status
from quant.config import NetworkConfig
from quant.synthetic import random_network, random_picture
from sim.machine_core import MachineCore

CONFIG = CONFIGS["tiny"]
SMALL = NetworkConfig(
    image_size=8,
    patch_size=2,
    in_chans=1,
    num_classes=5,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_hidden=20,
    selectors=(1,),
)
SEED = 5  # the selector prunes some tokens of some pictures


def network_and_pictures(count=5, topology=SMALL, seed=SEED):
    """An integer network and uint8 pictures (count, C, S, S)."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, topology)
    return network, np.stack([random_picture(rng, topology) for _ in range(count)])


def compiled_network(network, pictures=1, config=CONFIG):
    """The network as a board gets it."""
    return compile_for_board(network, config, pictures)


class HostCore(MachineCore):
    """The machine with what can go wrong: `hook` is called whenever time passes."""

    def __init__(self, config=CONFIG, hook=None):
        super().__init__(config)
        self.hook = hook

    def idle(self):
        if self.hook is not None:
            self.hook()
        super().idle()


@contextmanager
def interrupt_in_run(transport, seconds):
    """Send this process an interrupt, as Ctrl-C does, some time after the core was first seen busy."""
    read32, timers = transport.read32, []

    def watch(offset):
        value = read32(offset)
        if offset == REGISTERS["STATUS"].offset and value & Status.BUSY and not timers:
            timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)))
            timers[0].start()
        return value

    transport.read32 = watch
    try:
        yield
    finally:
        del transport.read32
        for timer in timers:
            timer.cancel()
