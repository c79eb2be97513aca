"""Reads a node's sensors again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, SupportsInt

from storage.protocol.energy import EnergyReading
from trainers.energy.counters import Accumulator, CounterError


class Readable(Protocol):
    """A sensor of perun's."""

    def read(self) -> SupportsInt: ...


class Sampler:
    """
    Args:
        sensors: By counter, each with what adds up its values.
        missing: Why a counter has none.
        now_s: A clock that never jumps.
    """

    def __init__(
        self,
        sensors: Mapping[str, Sequence[tuple[Readable, Accumulator]]],
        missing: Mapping[str, str],
        now_s: Callable[[], float],
    ) -> None:
        self._sensors, self._missing, self._now_s = dict(sensors), dict(missing), now_s

    def sample(self) -> EnergyReading:
        """Read all sensors; a counter one of whose sensors is lost is missing from then on."""
        for counter, sensors in [*self._sensors.items()]:
            try:
                for sensor, accumulator in sensors:
                    accumulator.add(int(sensor.read()), self._now_s())
            except CounterError as error:
                del self._sensors[counter]
                self._missing[counter] = str(error)
        joules = {
            counter: sum(accumulator.joules for _, accumulator in sensors) for counter, sensors in self._sensors.items()
        }
        return EnergyReading(joules, dict(self._missing))
