"""What a person or a batch system says to a driver: SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
import time


class StopRequest:
    """SIGINT and SIGTERM alike: the trials under way save a checkpoint and pause. A second one ends at once.

    Not one that follows at its heels: `timeout` and some batch systems signal a process and then its whole group.
    """

    _SAME_REQUEST_S = 2.0

    def __init__(self) -> None:
        self.number = 0
        self.event = threading.Event()
        self._noted_s = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    @property
    def signal_name(self) -> str:
        return signal.Signals(self.number).name

    def is_requested(self) -> bool:
        return self.number != 0

    def _note(self, number: int, frame: object) -> None:
        if self.number == 0:
            self.number, self._noted_s = number, time.monotonic()
            self.event.set()
        elif time.monotonic() - self._noted_s > self._SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
