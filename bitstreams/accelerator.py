"""Pictures in, predictions out: a compiled network on one core, over any transport, with double-buffered pictures.

While the core works on one run's pictures the host packs those of the next into a second buffer.

Imports: numpy, the standard library and modules that import nothing else, so that it also runs on the board.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from bitstreams.compiled import CompiledNetwork
from bitstreams.driver import DEFAULT_TIMEOUT_S, DEFAULT_WATCHDOG_CYCLES, HeatVit, RunResult, Transport
from quant.network import I16, U8, U16


@dataclass(frozen=True)
class Prediction:
    """What the accelerator says of one picture.

    logits_i16 (classes,), one scale for all; token_counts[s] live tokens after selector s; tokens those that reached
    the last block (CLS is 0, patch p is p + 1, a package token 65535); run holds cycles and counters of the run, which
    the picture may have shared with others.
    """

    logits_i16: I16
    token_counts: tuple[int, ...]
    tokens: U16
    run: RunResult

    @property
    def label(self) -> int:
        """The class of the largest logit; of equal ones the first."""
        return int(self.logits_i16.argmax())

    def kept_patches(self, num_patches: int) -> NDArray[np.int64]:
        """Return the numbers of the patches that reached the last block, 0..num_patches - 1, ascending."""
        numbers = self.tokens.astype(np.int64) - 1
        return numbers[(numbers >= 0) & (numbers < num_patches)]


class Accelerator:
    """A core that is loaded with a network; a context manager that frees its buffers.

    timeout_s bounds a run. Raises WrongCoreError if the core does not match the network's config.
    """

    def __init__(
        self,
        transport: Transport,
        network: CompiledNetwork,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        watchdog_cycles: int = DEFAULT_WATCHDOG_CYCLES,
    ) -> None:
        self.network = network
        self.core = HeatVit(transport, network.config)
        self._timeout_s = timeout_s
        self._running = self._staged = 0  # pictures of the run in progress, and of the next
        self.core.load(network, watchdog_cycles=watchdog_cycles)

    def __enter__(self) -> Accelerator:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End a run in progress and free the buffers."""
        self.close()

    def close(self) -> None:
        """End a run in progress and free the buffers."""
        self.core.close()

    def predict(self, pictures_u8: NDArray[np.uint8]) -> list[Prediction]:
        """Return a prediction for each of one or many uint8 pictures: (C, S, S) or (B, C, S, S).

        Raises ValueError if type or shape is wrong, and what bitstreams.driver.HeatVit.wait raises; the accelerator can
        be used again after any of it, an interrupt included.
        """
        pictures = self.network.check_pictures(pictures_u8)
        size = self.network.pictures
        predictions: list[Prediction] = []
        try:
            for first in range(0, len(pictures), size):
                self._stage(pictures[first : first + size])  # beside the run before
                if first:
                    predictions += self.wait()
                self._start()
            return predictions + (self.wait() if len(pictures) else [])
        except BaseException:
            self.core.abort()
            raise

    def start(self, pictures_u8: NDArray[np.uint8]) -> None:
        """Start a run on up to `network.pictures` pictures and return at once; wait() gives its predictions.

        Raises ValueError if type, shape or number is wrong, RuntimeError if a run is in progress.
        """
        pictures = self.network.check_pictures(pictures_u8)
        if not 1 <= len(pictures) <= self.network.pictures:
            raise ValueError(f"a run takes 1 to {self.network.pictures} pictures, not {len(pictures)}")
        self._stage(pictures)
        self._start()

    def wait(self) -> list[Prediction]:
        """Wait for the run that start() began; raises as bitstreams.driver.HeatVit.wait."""
        return self._read(self.core.wait(), self._running)

    def _stage(self, pictures: U8) -> None:
        self.core.stage(self.network.pack_pictures(pictures))
        self._staged = len(pictures)

    def _start(self) -> None:
        self.core.start(self._timeout_s)
        self._running = self._staged

    def _read(self, run: RunResult, count: int) -> list[Prediction]:
        """Return the predictions of a run's first `count` pictures."""
        network = self.network
        predictions = []
        for picture in range(count):
            counts = network.token_counts(run.token_counts, picture)
            live = counts[-1] if counts else network.network_config.num_tokens
            tokens = network.tokens(run.output, live, picture)
            predictions.append(Prediction(network.logits(run.output, picture), counts, tokens, run))
        return predictions
