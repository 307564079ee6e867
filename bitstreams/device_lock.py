"""One user of a device at a time: a file lock that the kernel gives back when its holder ends, however it ends.

Imports: the standard library, so that it also runs on the board.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from types import TracebackType

LOCK_FOLDER = Path("/run/lock")
"""For all users of a machine (File System Hierarchy Standard); where it is missing, the folder of temporary files."""


class DeviceBusyError(OSError):
    """Somebody else uses the device; the message names the process."""


class DeviceLock:
    """The right to use the device of a name; a context manager that gives it back.

    Raises DeviceBusyError, naming the holder, if there is another one, in this process or any other.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        folder = folder or _lock_folder()
        self.path = folder / f"heatvit-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.lock"
        self._descriptor = _lock(self.path, name)
        holder = {"process": os.getpid(), "user": _user(), "command": " ".join(sys.argv)}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def __enter__(self) -> DeviceLock:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the device back."""
        self.release()

    def release(self) -> None:
        """Give the device back; a second call does nothing."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)  # while locked: whoever waits for this file looks for the new one
            os.close(self._descriptor)
            self._descriptor = -1


def _lock(path: Path, name: str) -> int:
    """Return the descriptor of the locked file."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except PermissionError as error:
            raise DeviceBusyError(f"device {name} belongs to another user: {path} cannot be opened") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise DeviceBusyError(f"device {name} is in use by {holder}") from error
        if _is_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # its last holder removed it between our open and our lock


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """Describe the holder that wrote the file."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['process']} of {holder['user']} ({holder['command']})"
    except (ValueError, TypeError, KeyError):
        return "a process that has just started"


def _lock_folder() -> Path:
    return LOCK_FOLDER if os.access(LOCK_FOLDER, os.W_OK) else Path(tempfile.gettempdir())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name is known for the user
        return f"user {os.getuid()}"
