"""Energy of the processor packages, from Linux' powercap counters (RAPL), where they can be read."""

from __future__ import annotations

import time
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class PackagePower:
    """Mean power of all packages of a machine since it was made, other programs' share included."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._zones = [path for path in sorted(folder.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._start = self._read("energy_uj")
        self._seconds = time.perf_counter()

    def mean_w(self) -> float | None:
        """Return watts, or None where the counters cannot be read. A counter may have wrapped once."""
        seconds = time.perf_counter() - self._seconds
        end, limits = self._read("energy_uj"), self._read("max_energy_range_uj")
        if not self._zones or self._start is None or end is None or limits is None:
            return None
        used = [(after - before) % (limit + 1) for before, after, limit in zip(self._start, end, limits, strict=True)]
        return sum(used) * 1e-6 / seconds

    def _read(self, name: str) -> list[int] | None:
        try:
            return [int((zone / name).read_text()) for zone in self._zones]
        except (OSError, ValueError):
            return None
