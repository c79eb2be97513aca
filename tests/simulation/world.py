"""Time, chance and the record of what happened."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable


class InvariantError(AssertionError):
    """Something happened in the simulated world that must never happen."""


class World:
    """One run: events in order of their time. An event may itself let time pass, in which others happen."""

    def __init__(self, seed: int, heals_at_s: float, verbose: bool = False) -> None:
        self.seed, self.heals_at_s, self._verbose = seed, heals_at_s, verbose
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def is_healed(self) -> bool:
        return self.now_s >= self.heals_at_s

    def chance(self, probability: float) -> bool:
        """Whether something bad happens. Never once the world has healed."""
        return self.random.random() < probability and not self.is_healed

    def between(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def log(self, who: str, what: str) -> None:
        line = f"{self.now_s:9.1f}  {who:<12} {what}"
        self.trace.append(line)
        if self._verbose:
            print(line)

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + max(0.0, seconds), next(self._order), happen))

    def advance(self, seconds: float) -> None:
        """Let time pass, and with it whatever happens in that time."""
        until_s = self.now_s + seconds
        while self._events and self._events[0][0] <= until_s:
            at_s, _, happen = heapq.heappop(self._events)
            self.now_s = max(self.now_s, at_s)
            happen()
        # An event inside may have let more time pass than this.
        self.now_s = max(self.now_s, until_s)

    def run_until(self, is_over: Callable[[], bool], deadline_s: float) -> bool:
        """Run event after event; whether it was over in time."""
        while not is_over():
            if not self._events or self.now_s > deadline_s:
                return False
            at_s, _, happen = heapq.heappop(self._events)
            self.now_s = max(self.now_s, at_s)
            happen()
        return True


class SimulatedClock:
    """A machine's. Wall clocks differ and jump; nothing in the product may depend on that."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._offset_s = world.between(-1e6, 1e6)

    def monotonic(self) -> float:
        return self._world.now_s

    def unix(self) -> float:
        if self._world.chance(0.01):
            self._offset_s += self._world.between(-1e5, 1e5)
        return self._world.now_s + self._offset_s
