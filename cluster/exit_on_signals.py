"""Programs that end by an exception when they are told to, so that they take with them what they have started."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

SIGNALLED = 128
"""Of exit codes: plus a signal's number."""
_AGAIN_AFTER_S = 0.05


def exit_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this program by an exception, as Ctrl-C does.

    Where Python ignores exceptions, as in the __del__ of a process that has ended, those of all three would be lost:
    these signals come again.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)
    sys.unraisablehook = _send_again


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(SIGNALLED + number)


def _send_again(unraisable: sys.UnraisableHookArgs) -> None:
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > SIGNALLED:
        number = error.code - SIGNALLED
    else:
        sys.__unraisablehook__(unraisable)
        return
    # Not at once: it would be ignored like the first one.
    again = threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
