"""Workers on this machine: threads of the driver. They are there from the beginning and are never lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from cluster.attempt import Runner, StopSignal
from cluster.pool import AttemptFinished, EpochFinished, Event
from storage.protocol.attempts import AttemptRequest
from storage.protocol.records import EpochMetrics, Outcome

# Of the ranks' grace time, for supervisor and runner.
_ENDS_LATER_BY_S = 15.0


class LocalPool:
    """`slots` workers, of this one node each, whatever the number of ranks."""

    walltime_s = float("inf")

    def __init__(self, slots: int) -> None:
        self._runners = {f"slot-{number}": Runner() for number in range(slots)}
        self._attempts: dict[str, _Running | None] = dict.fromkeys(self._runners)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        running = [attempt for attempt in self._attempts.values() if attempt is not None]
        for attempt in running:
            attempt.stop.request(Outcome.PAUSED)
        for attempt in running:
            attempt.thread.join(attempt.request.grace_s + _ENDS_LATER_BY_S)
        if any(attempt.thread.is_alive() for attempt in running):
            return
        for runner in self._runners.values():
            runner.dismiss()
        for runner in self._runners.values():
            runner.close()

    def ask_for(self, workers: Mapping[int, int]) -> None:
        """They are all there, and cost nothing."""

    def idle_workers(self) -> dict[str, int]:
        return {worker: 1 for worker, attempt in self._attempts.items() if attempt is None}

    def time_left_s(self, worker: str) -> float:
        return float("inf")

    def start(self, request: AttemptRequest, worker: str) -> None:
        if self._attempts[worker] is not None:
            raise ValueError(f"{worker} has an attempt already")
        stop = StopSignal()

        def relay(metrics: EpochMetrics) -> None:
            self._events.put(EpochFinished(request, metrics))

        def run() -> None:
            end = self._runners[worker].run(request, relay, stop)
            self._events.put(AttemptFinished(request, end, worker))

        # A daemon: a driver that is told twice to end does not wait for it, and the supervisor looks after the ranks.
        thread = threading.Thread(target=run, name=f"attempt {request.key}", daemon=True)
        self._attempts[worker] = _Running(request, stop, thread)
        thread.start()

    def request_stop(self, request: AttemptRequest, outcome: Outcome) -> None:
        for attempt in self._attempts.values():
            if attempt is not None and attempt.request.key == request.key:
                attempt.stop.request(outcome)

    def hurry(self) -> None:
        for attempt in self._attempts.values():
            if attempt is not None:
                attempt.stop.hurry()

    def next_event(self, timeout_s: float) -> Event | None:
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None
        if isinstance(event, AttemptFinished):
            self._attempts[event.worker] = None
        return event

    def retire(self, worker: str) -> None:
        """There is no allocation to give back."""

    def allocations(self) -> None:
        """There are none."""

    def notices(self) -> Sequence[str]:
        return ()

    def left_behind(self) -> Sequence[str]:
        return [f"attempt {a.request.key}" for a in self._attempts.values() if a is not None and a.thread.is_alive()]


class _Running:
    def __init__(self, request: AttemptRequest, stop: StopSignal, thread: threading.Thread) -> None:
        self.request, self.stop, self.thread = request, stop, thread
