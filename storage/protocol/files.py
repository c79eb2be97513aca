"""Files that other processes read, possibly on other machines: written whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
# A mount that is away, a server that restarts, a connection that broke.
_TRANSIENT_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EIO",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENOTCONN", "EPIPE", "EREMOTEIO", "ESHUTDOWN", "ESTALE", "ETIMEDOUT",
    )
)  # fmt: skip


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or what it was raised from, is that a disk or a quota is full."""
    return _has_errno(error, _NO_SPACE_ERRNOS)


def is_transient(error: BaseException | None) -> bool:
    """Whether the error, or what it was raised from, is a fault of a file system or connection that waiting cures."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or _has_errno(error, _TRANSIENT_ERRNOS):
            return True
        error = error.__cause__
    return False


def _has_errno(error: BaseException | None, numbers: frozenset[int]) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            return True
        error = error.__cause__
    return False


class FileSystem(Protocol):
    """What the protocol does with files. One implementation is real; the other one belongs to the simulation."""

    def read(self, path: Path) -> bytes | None:
        """None if there is no such file."""
        ...

    def exists(self, path: Path) -> bool: ...

    def write_atomically(self, path: Path, content: bytes) -> None:
        """Make or replace a file: a reader sees all of it or none, and it survives a power cut."""
        ...

    def append_line(self, path: Path, line: bytes) -> None:
        """Add a line to a file that one process alone writes. What is left of a torn line gets a line of its own."""
        ...

    def create(self, path: Path, content: bytes) -> bool:
        """Make a file, if nobody has made it before; whether this call did."""
        ...

    def make_dir(self, path: Path) -> bool:
        """Make a folder, and those above it, if it is not there; whether this call did. Others may not enter it."""
        ...

    def list_dir(self, path: Path) -> Sequence[str]:
        """Names, in no order; none if there is no such folder."""
        ...

    def rename(self, path: Path, to: Path) -> None: ...

    def remove(self, path: Path) -> None:
        """Remove a file or a folder with all that is in it. Nothing happens if it is not there."""
        ...


@dataclass(frozen=True)
class OsFileSystem:
    """The operating system's."""

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, path: Path) -> bool:
        return path.exists()

    def write_atomically(self, path: Path, content: bytes) -> None:
        # On a shared file system, a process id alone may be another node's as well.
        scratch = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except BaseException:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise

    def append_line(self, path: Path, line: bytes) -> None:
        with path.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            content = line + b"\n"
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                content = b"\n" + content
            try:
                _write_all(file.fileno(), content)
                os.fsync(file.fileno())
            except OSError:
                # A reader passes over a torn line, but need not meet one.
                with suppress(OSError):
                    file.truncate(end)
                raise

    def create(self, path: Path, content: bytes) -> bool:
        try:
            with path.open("xb", buffering=0) as file:
                _write_all(file.fileno(), content)
        except FileExistsError:
            return False
        return True

    def make_dir(self, path: Path) -> bool:
        # What is in a study's folder is believed, so nobody else may put anything there.
        if not path.parent.exists():
            self.make_dir(path.parent)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
            return False
        return True

    def list_dir(self, path: Path) -> Sequence[str]:
        try:
            return os.listdir(path)  # noqa: PTH208  pathlib's iterdir makes a Path of each name
        except (FileNotFoundError, NotADirectoryError):
            return []

    def rename(self, path: Path, to: Path) -> None:
        path.rename(to)

    def remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except IsADirectoryError:
            shutil.rmtree(path)


OS_FILES = OsFileSystem()
write_atomically = OS_FILES.write_atomically


def _write_all(descriptor: int, content: bytes) -> None:
    """Write to the end: at a size limit or on a disk that fills up, a call may write a part and report no error."""
    while content:
        content = content[os.write(descriptor, content) :]


def has_space(folder: Path, files: FileSystem = OS_FILES) -> bool:
    """Whether a small file can be written here: the free space of a disk says nothing of quotas."""
    probe = folder / f"probe-{uuid.uuid4().hex[:8]}"
    try:
        files.write_atomically(probe, bytes(2**16))
        files.remove(probe)
    except OSError as error:
        return not is_disk_full(error)
    return True
