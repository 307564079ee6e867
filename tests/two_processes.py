"""Start two processes of one training as a user does it, on a free port."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_two_processes(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a program, or -m and a module, in two processes of one thread, to their end within five minutes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
