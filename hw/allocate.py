"""Memory allocation: buffers with a lifetime in program order, and the rings that weights and parameters pass through.

Addresses only have to be right in program order: the dependency pass turns every reuse of a word into a wait.
"""

from __future__ import annotations

from collections import deque


class Allocator:
    """First-fit allocation of words, without a limit; `peak` says how large the memory has to be."""

    def __init__(self) -> None:
        self.peak = 0
        self._taken: dict[int, int] = {}

    def take(self, words: int) -> int:
        """Return the base of `words` free words, the lowest there is."""
        base = 0
        for other in sorted(self._taken):
            if base + words <= other:
                break
            base = other + self._taken[other]
        self._taken[base] = words
        self.peak = max(self.peak, base + words)
        return base

    def release(self, base: int) -> None:
        """Free the words that `take` returned."""
        del self._taken[base]


class Ring:
    """Runs of words that are taken and released in the same order, each contiguous."""

    def __init__(self, base: int, words: int) -> None:
        self._base, self._words = base, words
        self._next = 0
        self._runs: deque[tuple[int, int]] = deque()

    def fits(self, words: int) -> bool:
        """Tell whether `take` would find a run of `words` words now."""
        start, end = self._run(words)
        return end <= self._words and not any(start < last and first < end for first, last in self._runs)

    def take(self, words: int) -> int:
        """Return the base of a run of `words` words behind the last one taken. It must fit."""
        assert self.fits(words)
        start, end = self._run(words)
        self._runs.append((start, end))
        self._next = end
        return self._base + start

    def release(self) -> None:
        """Free the oldest run."""
        self._runs.popleft()

    def _run(self, words: int) -> tuple[int, int]:
        start = self._next if self._next + words <= self._words else 0
        return start, start + words
