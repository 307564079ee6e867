"""Frame rates at clocks that are assumed: no timing analysis has given one."""

from __future__ import annotations

CLOCKS_MHZ = (150, 250, 300)


def frame_rates(cycles: float) -> dict[str, float]:
    """Return pictures a second at each of CLOCKS_MHZ, by "250 MHz", for so many cycles a picture."""
    return {f"{clock} MHz": round(clock * 1e6 / cycles, 1) for clock in CLOCKS_MHZ}
