"""Time, as an argument: a simulated world has its own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds since some moment; never jumps, and goes on while a process is stopped."""
        ...

    def unix(self) -> float:
        """Seconds since 1970, as this machine believes. May jump."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        # Unlike time.monotonic(), also while the machine sleeps: a lease does not last longer for it.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def unix(self) -> float:
        return time.time()


SYSTEM_CLOCK = SystemClock()
