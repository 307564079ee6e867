"""Whether hls4ml is installed: it is an extra, and everything else works without it."""

from __future__ import annotations

from importlib import import_module


def require_hls4ml() -> None:
    """Raise ValueError, saying how to install it, unless hls4ml can be imported."""
    try:
        import_module("hls4ml")
    except ImportError as error:
        raise ValueError("the HLS backend needs hls4ml: pip install 'heatvit[hls]'") from error
