"""One driver per study: two would ask for the same trials and write over each other.

An operating system's lock on a file in the study's folder: it ends with its holder, however that dies.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from storage.trial_dir import write_atomically


class LeaseError(RuntimeError):
    """Another driver runs this study."""


@contextmanager
def hold_lease(study_dir: Path) -> Iterator[None]:
    """Hold the study for the length of the block.

    Raises:
        LeaseError: Another process holds it; the message says which.
    """
    study_dir.mkdir(parents=True, exist_ok=True)
    holder = study_dir / "driver.holder"
    lock = filelock.FileLock(study_dir / "driver.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        who = holder.read_text() if holder.exists() else "another process"
        raise LeaseError(
            f"{study_dir} is being run by {who}; wait for it, or stop it (a signal pauses its trials), then try again."
        ) from error
    try:
        write_atomically(holder, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
