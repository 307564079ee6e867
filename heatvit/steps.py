"""Pipeline steps that run only if what they depend on has changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatvit.files import file_digest, write_json

ROOT = Path(__file__).parent.parent
"""The folder that holds this project's packages."""


@dataclass(frozen=True)
class StepResult:
    """What a step returned (plain JSON types), and whether it ran now or was up to date."""

    values: dict[str, Any]
    seconds: float
    is_reused: bool


def source_digest(packages: Sequence[str]) -> str:
    """Return one SHA-256 over the Python and Verilog files of some of this project's packages."""
    total = hashlib.sha256()
    for package in packages:
        for path in sorted(path for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".v")):
            total.update(f"{path.relative_to(ROOT)}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def run_step(
    stamp: Path, inputs: Mapping[str, Any], outputs: Sequence[Path], action: Callable[[], dict[str, Any]]
) -> StepResult:
    """Run `action` unless the stamp file says that nothing changed since it last ended well.

    A step is up to date if its inputs (JSON types) are those of the stamp and every output file still has the content
    that the step left. action returns JSON types, which the stamp keeps. A step that raises leaves no stamp.
    """
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    if (known := _read(stamp)) is not None and known["key"] == key and known["outputs"] == _digests(outputs):
        return StepResult(known["values"], known["seconds"], is_reused=True)
    stamp.unlink(missing_ok=True)
    start = time.monotonic()
    values = action()
    seconds = round(time.monotonic() - start, 3)
    write_json(stamp, {"key": key, "outputs": _digests(outputs), "seconds": seconds, "values": values})
    return StepResult(values, seconds, is_reused=False)


def _digests(outputs: Sequence[Path]) -> dict[str, str]:
    return {str(path): file_digest(path) if path.is_file() else "missing" for path in outputs}


def _read(stamp: Path) -> dict[str, Any] | None:
    """Return a stamp, or None if there is none that can be used."""
    try:
        values = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and set(values) == {"key", "outputs", "seconds", "values"} else None
