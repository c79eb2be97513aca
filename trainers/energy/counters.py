"""From what sensors show to joules. Needs no hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# At 1 kW the smallest counters begin anew after a minute, and nobody sees how often they did.
_LONGEST_GAP_S = 60.0
# Counters are updated every millisecond; those that a virtual machine pretends may stand still.
_ADVANCES_WITHIN_S = 10.0
_SHOWS_WITHIN_S = 5.0


class CounterError(OSError):
    """A counter is missing, cannot be read or says nothing. The message says why."""


class Accumulator(Protocol):
    """The joules of one sensor since its first value."""

    @property
    def joules(self) -> float: ...

    def add(self, value: int, now_s: float) -> None:
        """Take a further value.

        Args:
            now_s: On a clock that never jumps.

        Raises:
            CounterError: The joules are not known any more.
        """
        ...


class EnergyCounter:
    """Of a sensor that counts, and begins anew at 0.

    Args:
        unit_j: Joules of one count.
        largest: Its last value before 0.
    """

    def __init__(self, unit_j: float, largest: int) -> None:
        self._unit_j, self._largest = unit_j, largest
        self._counts = 0
        self._last: _Value | None = None
        self._advanced_s = 0.0

    @property
    def joules(self) -> float:
        return self._counts * self._unit_j

    def add(self, value: int, now_s: float) -> None:
        if not _is_shown(value, now_s, self._last):
            return
        if self._last is None or value != self._last.value:
            self._advanced_s = now_s
        if now_s - self._advanced_s > _ADVANCES_WITHIN_S:
            raise CounterError(f"the counter has stood still at {value} for {now_s - self._advanced_s:.0f} s")
        if self._last is not None:
            self._counts += (value - self._last.value) % (self._largest + 1)
        self._last = _Value(value, now_s)


class PowerIntegral:
    """Of a sensor that shows power: between two values, the mean of both.

    Args:
        unit_w: Watts of one count.
    """

    def __init__(self, unit_w: float) -> None:
        self._unit_w = unit_w
        self._joules = 0.0
        self._last: _Value | None = None

    @property
    def joules(self) -> float:
        return self._joules

    def add(self, value: int, now_s: float) -> None:
        if not _is_shown(value, now_s, self._last):
            return
        if self._last is not None:
            self._joules += self._unit_w * (self._last.value + value) / 2 * (now_s - self._last.at_s)
        self._last = _Value(value, now_s)


@dataclass(frozen=True)
class _Value:
    value: int
    at_s: float


def _is_shown(value: int, now_s: float, last: _Value | None) -> bool:
    """Whether the sensor shows something; for a moment, it need not.

    Raises:
        CounterError: It has shown nothing, or nobody has looked, for too long.
    """
    # 0 is what perun's sensors give when their file or driver gives an error; no hardware that is on takes nothing.
    if value <= 0 and (last is None or now_s - last.at_s > _SHOWS_WITHIN_S):
        raise CounterError("the counter shows 0, or cannot be read")
    if last is not None and now_s - last.at_s > _LONGEST_GAP_S:
        raise CounterError(f"nobody read the counter for {now_s - last.at_s:.0f} s, in which it may have begun anew")
    return value > 0
