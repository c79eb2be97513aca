"""Where attempts run: workers that take one attempt at a time each, and what happens to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from storage.protocol.attempts import AttemptEnd, AttemptRequest
from storage.protocol.records import EpochMetrics, Outcome


class PoolError(RuntimeError):
    """The pool will never have workers until a person has put something right."""


@dataclass(frozen=True)
class EpochFinished:
    request: AttemptRequest
    metrics: EpochMetrics


@dataclass(frozen=True)
class AttemptFinished:
    """The attempt has ended: nothing of it runs any more, or what still does is fenced off."""

    request: AttemptRequest
    end: AttemptEnd
    worker: str


Event = EpochFinished | AttemptFinished


class Pool(AbstractContextManager["Pool"], Protocol):
    """Workers that come when asked for, and may go at any time. Its context's end gives all of them back.

    Every attempt that is started ends with exactly one AttemptFinished, whatever happens to its worker.
    """

    walltime_s: float
    """For which a new worker is there; infinite where nothing ends it."""

    def ask_for(self, workers: Mapping[int, int]) -> None:
        """Have this many, by the nodes of each, soon; a lost one is replaced. Called twice a second, and answers at
        once.

        Raises:
            PoolError: There will never be any.
        """
        ...

    def idle_workers(self) -> Mapping[str, int]:
        """Those that are there, and whose last attempt's end `next_event` has given; with the nodes of each."""
        ...

    def time_left_s(self, worker: str) -> float:
        """Of this one's allocation; infinite if nothing ends it."""
        ...

    def start(self, request: AttemptRequest, worker: str) -> None:
        """Hand an attempt to a worker that is idle, and has as many nodes as the attempt's layout."""
        ...

    def request_stop(self, request: AttemptRequest, outcome: Outcome) -> None:
        """Ask an attempt to end: PRUNED, HELD with a checkpoint, or PAUSED, which is stronger and sends its ranks away.

        It may be over before it hears of it, and end otherwise.
        """
        ...

    def hurry(self) -> None:
        """Have what still runs end at once, without a checkpoint; the pool is closed next."""
        ...

    def next_event(self, timeout_s: float) -> Event | None:
        """The next thing that happened, in order; None if nothing did in time."""
        ...

    def retire(self, worker: str) -> None:
        """Give this one's allocation back. It is idle; another one may come in its place."""
        ...

    def allocations(self) -> Mapping[str, float] | None:
        """Node-seconds so far of each allocation that there was, by its id, those that an earlier driver left included.

        None where no allocation is held beyond what attempts hold.
        """
        ...

    def notices(self) -> Sequence[str]:
        """What a person should know since the last call."""
        ...

    def left_behind(self) -> Sequence[str]:
        """What could not be given back when the context ended, by the name that the batch system gives it."""
        ...
