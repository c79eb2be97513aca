"""How a test waits: for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], within_s: float = 30.0, pause_s: float = 0.02) -> Value:
    """Look again until the condition gives something true, and give that.

    Raises:
        TimeoutError: It has not within `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{getattr(condition, '__name__', condition)} is still {value!r} after {within_s:g} s.")
        time.sleep(pause_s)
    return value
