"""C simulation of a block: hls4ml's g++ build of the generated C++, called from Python."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hls4ml.model import ModelGraph
from numpy.typing import NDArray


class CompileError(ValueError):
    """The generated C++ did not compile; the message holds the compiler's first complaint."""


@dataclass(frozen=True)
class Simulation:
    """A compiled block, and how long g++ took."""

    graph: ModelGraph
    compile_seconds: float

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[np.int64]]:
        """Call the block once a sample: every input (samples, *shape), each result (samples, *shape of the result)."""
        results, variables = self.graph.predict(_arguments(inputs)), self.graph.get_output_variables()
        arrays = [results] if len(variables) == 1 else results
        return [
            _integers(np.reshape(array, (len(inputs[0]), *variable.shape)))
            for array, variable in zip(arrays, variables, strict=True)
        ]

    def trace(self, inputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
        """Compile once more and return the result (samples, *shape) of every layer that the golden model has, too."""
        # The trace takes one call as many only if there are two.
        doubled = [np.concatenate([array, array]) for array in inputs]
        with contextlib.redirect_stdout(io.StringIO()):
            _, results = self.graph.trace(_arguments(doubled))
        return {name: _integers(values[: len(inputs[0])]) for name, values in results.items()}


def compile_project(graph: ModelGraph) -> Simulation:
    """Write the project and compile it with g++. Raises CompileError."""
    start, output = time.monotonic(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            graph.compile()
    except Exception as error:  # hls4ml raises nothing more special
        complaints = ("error", "not found")
        lines = [line for line in output.getvalue().splitlines() if any(word in line for word in complaints)]
        lines.append(str(error))
        raise CompileError(f"{graph.config.get_output_dir()}: {lines[0]}") from error
    return Simulation(graph, round(time.monotonic() - start, 2))


def _arguments(inputs: Sequence[NDArray[Any]]) -> Any:
    """Return what hls4ml takes: one array, or a list. Doubles hold every value of 32 bits."""
    arrays = [np.ascontiguousarray(array, np.float64) for array in inputs]
    return arrays[0] if len(arrays) == 1 else arrays


def _integers(values: NDArray[Any]) -> NDArray[np.int64]:
    rounded = np.rint(values)
    if not np.array_equal(rounded, values):
        raise ValueError("a result of the C simulation is no integer")
    integers: NDArray[np.int64] = rounded.astype(np.int64)
    return integers
