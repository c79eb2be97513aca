"""What a study asks of its file system, tried in a folder: from one machine, and between two."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from cluster.doctor.facts import FolderFacts
from storage.protocol.files import write_atomically

TRIED_BYTES = 64 * 2**20
"""Two checkpoints of EfficientNet-B0 with its optimizer: what the smallest trial of the paper keeps."""
_CHUNK = 2**20
_POLL_S = 0.05
_LOCK = "lock"


def gather_folder(path: Path, label: str, size_bytes: int) -> FolderFacts:
    """Write, rename and lock in a folder; what was written is removed again.

    Args:
        label: No other process uses the same at this time.
        size_bytes: Of the file that is written.
    """
    scratch = path / f"scratch-{label}"
    failures: dict[str, str] = {}
    try:
        scratch.mkdir()
        for name, attempt in (("write", partial(_write, size_bytes)), ("rename", _rename), ("lock", _lock)):
            try:
                attempt(scratch)
            except OSError as error:
                failures[name] = error.strerror or str(error)
    except OSError as error:
        failures["write"] = error.strerror or str(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return FolderFacts(str(path), _file_system(path), _free_bytes(path), failures)


def _write(size_bytes: int, scratch: Path) -> None:
    # Free space says nothing of a quota; zeros would take none on a file system that compresses.
    with (scratch / "checkpoint").open("wb") as file:
        for _ in range(size_bytes // _CHUNK):
            file.write(os.urandom(_CHUNK))
        file.flush()
        os.fsync(file.fileno())
    (scratch / "checkpoint").unlink()


def _rename(scratch: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(scratch / "result", content)
    if (scratch / "result").read_bytes() != b"new":
        raise OSError("a file that was renamed over another one still has the old content")
    (scratch / "folder").mkdir()
    (scratch / "folder").rename(scratch / "renamed")


def _lock(scratch: Path) -> None:
    with (scratch / _LOCK).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def holding_lock(folder: Path) -> Iterator[None]:
    """Hold the lock that `is_lock_shared` asks for; where locks do not work, nothing is held."""
    with (folder / _LOCK).open("wb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_lock_shared(folder: Path) -> bool | None:
    """Whether the lock that another machine holds holds here, too; None where locks do not work."""
    try:
        with (folder / _LOCK).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def measure_round_trip_s(folder: Path, label: str, within_s: float) -> float | None:
    """How long it takes until the other side's answer to a new file is seen; None if it is not in time.

    By one clock, because those of two machines may differ.
    """
    answer = folder / f"answer-{label}"
    # Asked for before it is there, as a watched `stop` is: a network file system may keep the No for a while.
    answer.exists()
    write_atomically(folder / f"question-{label}", b"")
    started_s = time.monotonic()
    while time.monotonic() - started_s < within_s:
        if answer.exists():
            return time.monotonic() - started_s
        time.sleep(_POLL_S)
    return None


def answer_questions(folder: Path) -> None:
    """The other side of `measure_round_trip_s`, once for all who have asked so far."""
    names = set(os.listdir(folder))  # noqa: PTH208  one call to the file system
    for name in names:
        answer = name.replace("question-", "answer-", 1)
        if name.startswith("question-") and answer not in names:
            write_atomically(folder / answer, b"")


def _file_system(path: Path) -> str:
    """Its type: that of the innermost mount that the path lies in."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    resolved = path.resolve()
    return next((mounts[place] for place in (resolved, *resolved.parents) if place in mounts), "unknown")


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0
