"""What a person or a batch system says to a driver: Ctrl-C, SIGTERM, a lost terminal, a time limit."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
# `timeout` and some batch systems signal a process and then its whole group.
_SAME_REQUEST_S = 2.0
_PAUSE_WHEN_STOPPING_S = 0.5


class StopRequest:
    """The first signal has the trials under way pause, a second one does not wait for them, a third one ends at once.

    Signals that follow within two seconds count as one request. Python gives signals to the main thread alone: on
    another one, nothing asks for an end.
    """

    def __init__(self) -> None:
        self.number = 0
        self._requests = 0
        self._event = threading.Event()
        self._noted_s = 0.0
        for number in _SIGNALS if _is_main_thread() else ():
            # A driver under nohup goes on when its terminal is lost.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    @property
    def signal_name(self) -> str:
        return signal.Signals(self.number).name

    def is_requested(self) -> bool:
        return self._requests > 0

    def is_urgent(self) -> bool:
        return self._requests > 1

    def pause(self, seconds: float) -> None:
        """Wait, but not for long once a stop is requested."""
        if self._event.wait(seconds):
            time.sleep(min(seconds, _PAUSE_WHEN_STOPPING_S))

    def _note(self, number: int, frame: object) -> None:
        now_s = time.monotonic()
        if self._requests and now_s - self._noted_s <= _SAME_REQUEST_S:
            return
        self._requests, self._noted_s = self._requests + 1, now_s
        self.number = self.number or number
        self._event.set()
        if self._requests > 2:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def handlers_are_put_back() -> Iterator[None]:
    """Whatever the block does, signals mean afterwards what they meant before."""
    before = {number: signal.getsignal(number) for number in _SIGNALS} if _is_main_thread() else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: not from Python, and nothing that Python could put back.
            if handler is not None:
                signal.signal(number, handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
