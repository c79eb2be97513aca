"""Which of the trials that wait there is room for. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def count_that_fit(sizes: Iterable[int], room: int) -> int:
    """How many of those that wait fit into the room at once, in their order.

    One that is too large for what is left holds up those behind it: they would take what it waits for.
    """
    count = 0
    for size in sizes:
        room -= size
        if room < 0:
            break
        count += 1
    return count
