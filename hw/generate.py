"""Write the Verilog of an accelerator: AccelConfig -> files and their SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import verilog

from hw.config import AccelConfig
from hw.rtl.modules import RAM_MODULE, make_modules
from hw.rtl.packed_dot import Multiplier
from hw.rtl.ram import RAM_VERILOG

MULTIPLIERS: dict[str, Multiplier] = {"behavioural": Multiplier.BEHAVIOURAL, "dsp48": Multiplier.DSP48E2}
"""How multipliers are written: as plain arithmetic, for simulation, or as DSP48E2 instances, for synthesis."""


@dataclass(frozen=True)
class VerilogFiles:
    """What generate wrote.

    top: module name. sources: the files, the RAM's first, the top's last. separate_modules: modules that occur many
    times and are worth compiling once. sha256: digest of the sources' names and contents, equal for equal configs.
    """

    top: str
    sources: tuple[Path, ...]
    separate_modules: tuple[str, ...]
    sha256: str


def generate(config: AccelConfig, folder: Path, dsp: str = "behavioural") -> VerilogFiles:
    """Write one Verilog file per separate module into folder; each file appears whole or not at all.

    Raises ValueError if dsp is unknown, OSError if the folder cannot be written.
    """
    if dsp not in MULTIPLIERS:
        raise ValueError(f"dsp must be one of {', '.join(MULTIPLIERS)}, not {dsp!r}")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {RAM_MODULE: RAM_VERILOG.read_text()}
    for name, component in make_modules(config, MULTIPLIERS[dsp]).items():
        # Source locations would make the text depend on where the repository lies.
        texts[name] = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    digest = hashlib.sha256()
    sources = []
    for name, text in texts.items():
        digest.update(f"{name}.v {len(text)}\n{text}".encode())
        sources.append(_write_whole(folder / f"{name}.v", text))
    _, *separate, top = texts
    return VerilogFiles(top, tuple(sources), tuple(separate), digest.hexdigest())


def _write_whole(path: Path, text: str) -> Path:
    """Write a text file by renaming a finished one; return its path."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path
