"""Seconds and bytes of calls that all ranks make together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

from trainers.communicator import Communicator

Value = TypeVar("Value")

_FEWEST_CALLS, _MOST_CALLS, _WITHIN_S = 3, 10, 4.0
_GPU = "GPU:0"
"""The only one that a rank sees."""


def time_call(call: Callable[[], tf.Tensor], communicator: Communicator) -> float:
    """Seconds until the device has the result. A collective: all ranks begin at once, or waiting for the last one
    would count."""
    communicator.max(0)
    started_s = time.perf_counter()
    call().numpy()
    return time.perf_counter() - started_s


def time_calls(call: Callable[[], tf.Tensor], communicator: Communicator) -> tuple[float, list[float]]:
    """Seconds of the first call, and of each of several more: as many on all ranks, and fewer of slow ones."""
    first_s = time_call(call, communicator)
    count = communicator.broadcast(max(_FEWEST_CALLS, min(_MOST_CALLS, int(_WITHIN_S / max(first_s, 1e-6)))))
    return first_s, [time_call(call, communicator) for _ in range(count)]


def with_peak_bytes(act: Callable[[], Value]) -> tuple[Value, int]:
    """What it gives, and the most memory that TensorFlow had in use on this rank's GPU meanwhile; 0 without a GPU."""
    if not tf.config.list_logical_devices("GPU"):
        return act(), 0
    tf.config.experimental.reset_memory_stats(_GPU)
    value = act()
    return value, int(tf.config.experimental.get_memory_info(_GPU)["peak"])
