"""One user of a device at a time.

Testpoints: a second user is refused with the holder's process, user and command, in the same process and in another;
a released device can be taken again; a holder that is killed gives it back and leaves no obstacle; other devices are
free; a name is no path; a file that belongs to somebody else is told; a holder that removes the file while another one
opens it does not let two in.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitstreams import device_lock
from bitstreams.device_lock import DeviceBusyError, DeviceLock

HOLD = """
import sys
from pathlib import Path
from bitstreams.device_lock import DeviceLock
lock = DeviceLock("board", Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the device."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_user_is_refused_and_told_the_first(tmp_path):
    with DeviceLock("board", tmp_path):
        with pytest.raises(DeviceBusyError, match=rf"device board is in use by process {os.getpid()} of .* \(.*\)"):
            DeviceLock("board", tmp_path)
        with DeviceLock("other", tmp_path):
            pass
    with DeviceLock("board", tmp_path) as lock:
        pass
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_other_process_is_named(tmp_path, holder):
    with pytest.raises(DeviceBusyError, match=f"device board is in use by process {holder.pid} of"):
        DeviceLock("board", tmp_path)


def test_killed_holder_gives_the_device_back(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert len(list(tmp_path.iterdir())) == 1  # it had no chance to remove its file
    with DeviceLock("board", tmp_path) as lock:
        assert str(os.getpid()) in lock.path.read_text()


def test_name_is_no_path(tmp_path):
    with DeviceLock("../up/and away", tmp_path) as lock:
        assert lock.path.parent == tmp_path and lock.path.exists()


def test_file_of_another_user_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(device_lock.os, "open", refuse)
    with pytest.raises(DeviceBusyError, match=r"device board belongs to another user: .*board\.lock cannot be opened"):
        DeviceLock("board", tmp_path)


def test_holder_without_words_is_still_one(tmp_path):
    with DeviceLock("board", tmp_path) as lock:
        lock.path.write_text("")
        with pytest.raises(DeviceBusyError, match="in use by a process that has just started"):
            DeviceLock("board", tmp_path)


def test_file_that_was_removed_meanwhile_locks_nobody(tmp_path, monkeypatch):
    """The first holder releases between our open and our lock; somebody else takes the device by a new file."""
    first, real, others = DeviceLock("board", tmp_path), os.open, []

    def open_late(*arguments):
        descriptor = real(*arguments)
        if not others:
            others.append(None)
            first.release()
            others.append(DeviceLock("board", tmp_path))
        return descriptor

    monkeypatch.setattr(device_lock.os, "open", open_late)
    with pytest.raises(DeviceBusyError, match="in use by"):
        DeviceLock("board", tmp_path)
    others[1].release()


def test_folder_of_temporary_files_where_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(device_lock, "LOCK_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(device_lock.tempfile, "gettempdir", lambda: str(tmp_path))
    with DeviceLock("board") as lock:
        assert lock.path.parent == tmp_path
