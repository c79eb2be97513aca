"""Ends a rank that waits for one that hangs, and shows the runner that the ranks get on.

Horovod finds a rank that does not join a collective, but not one whose process is frozen or whose node is out of reach:
its own threads then wait inside MPI, without a time limit.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

from storage.protocol.exit_codes import ExitCode
from storage.protocol.variables import WATCHDOG_LIMIT_S

DEFAULT_LIMIT_S = 300.0
_BEATS_EVERY_S = 5.0


class Watchdog:
    """Ends this process if `heartbeat` is not called for `limit_s`. Watches from the first call on."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._began_s = time.monotonic()
        self._beaten_s: float | None = None
        self._publish: Callable[[float], None] | None = None
        self._is_publishing = False

    def heartbeat(self) -> None:
        is_first = self._beaten_s is None
        self._beaten_s = time.monotonic()
        if is_first:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def publish_to(self, write: Callable[[float], None]) -> None:
        """Have the heartbeats written down, every few seconds, as seconds since this process began."""
        self._publish = write
        if not self._is_publishing:
            self._is_publishing = True
            threading.Thread(target=self._publish_beats, name="heartbeat", daemon=True).start()

    def stop_publishing(self) -> None:
        self._publish = None

    def _watch(self) -> None:
        while time.monotonic() - (self._beaten_s or 0.0) < self._limit_s:
            time.sleep(self._limit_s / 20)
        print(
            f"error: no progress for {self._limit_s:g} s; another rank or its node hangs. See {WATCHDOG_LIMIT_S}.",
            file=sys.stderr,
            flush=True,
        )
        # Not sys.exit: the main thread is inside MPI, and does not come back.
        os._exit(ExitCode.PEERS_LOST)

    def _publish_beats(self) -> None:
        published: tuple[object, float | None] = None, None
        while True:
            write, beaten_s = self._publish, self._beaten_s
            if write is not None and beaten_s is not None and (write, beaten_s) != published:
                published = write, beaten_s
                # A file system that is away for a moment is no reason to stop training.
                with contextlib.suppress(OSError):
                    write(beaten_s - self._began_s)
            time.sleep(_BEATS_EVERY_S)
