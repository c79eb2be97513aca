"""Ends a rank that waits for one that hangs.

Horovod finds a rank that does not join a collective, but not one whose process is frozen or whose node is out of reach:
its own threads then wait inside MPI, without a time limit.
"""

from __future__ import annotations

import os
import sys
import threading
import time

LIMIT_VARIABLE = "SWITCHYARD_STALL_SHUTDOWN_TIME_SECONDS"
EXIT_PEERS_LOST = 14
"""As Open MPI ends a rank that cannot reach another one: MPI_ERR_UNKNOWN."""


class StallWatch:
    """Ends this process if `note_progress` is not called for `limit_s`. Watches from the first call on."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._progress_s: float | None = None

    def note_progress(self) -> None:
        is_first = self._progress_s is None
        self._progress_s = time.monotonic()
        if is_first:
            threading.Thread(target=self._watch, name="stall watch", daemon=True).start()

    def _watch(self) -> None:
        while time.monotonic() - (self._progress_s or 0.0) < self._limit_s:
            time.sleep(self._limit_s / 20)
        print(
            f"error: no progress for {self._limit_s:g} s; another rank or its node hangs. See {LIMIT_VARIABLE}.",
            file=sys.stderr,
            flush=True,
        )
        # Not sys.exit: the main thread is inside MPI, and does not come back.
        os._exit(EXIT_PEERS_LOST)
