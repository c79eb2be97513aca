"""Farms attempts out to Dask workers, one per worker at a time, and brings their news to one queue.

The driver's end is `Dispatcher`; the worker's end is `_run_on_worker`. Between them go: the request, as the task's
argument; each epoch, as a Dask event; the wish to end early, as a Dask variable; the end, as the task's result.
"""

from __future__ import annotations

import json
import queue
from dataclasses import asdict, dataclass
from uuid import uuid4

from distributed import CancelledError, Client, Future, Scheduler, Variable, get_client, get_worker
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from cluster.attempt import AttemptEnd, AttemptRequest, EndKind, run_attempt
from storage.records import EpochMetrics, Outcome
from storage.trial_dir import is_disk_full

# The allocation went away with the worker in it, before its end or before its result was fetched. Anything else is a
# fault of the runner itself.
_LOST_WITH_ITS_WORKER = (KilledWorker, CancelledError, CommClosedError)


@dataclass(frozen=True)
class EpochFinished:
    request: AttemptRequest
    metrics: EpochMetrics


@dataclass(frozen=True)
class AttemptFinished:
    request: AttemptRequest
    end: AttemptEnd
    worker: str
    """The one that it ran on, or was to run on."""


News = EpochFinished | AttemptFinished


@dataclass(frozen=True)
class _Running:
    request: AttemptRequest
    worker: str
    future: Future


class Dispatcher:
    """The driver's view of the runners."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # A runner that is lost with its allocation is the study's to restart, from the checkpoint; Dask would run the
        # same attempt again, beside ranks that may still be alive.
        client.run_on_scheduler(_never_repeat_tasks)
        # Names are this driver's own: nothing of a driver before it is taken for news.
        self._topic = f"switchyard-{uuid4().hex}"
        self._running: dict[str, _Running] = {}
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        client.subscribe_topic(self._topic, self._on_event)

    def busy_workers(self) -> set[str]:
        return {running.worker for running in self._running.values()}

    def submit(self, request: AttemptRequest, worker: str) -> None:
        """Hand an attempt to a worker that is free: a queued task would share the fate of the one before it."""
        self._wish(request).set("")
        future = self._client.submit(
            _run_on_worker,
            request,
            self._topic,
            key=f"{self._topic}/{request.key}",
            workers=[worker],
            pure=False,
        )
        self._running[request.key] = _Running(request, worker, future)
        future.add_done_callback(lambda done: self._on_done(request, worker, done))

    def give_up_on_lost_workers(self) -> None:
        """End the attempts of workers that are gone. Dask keeps a task that was handed over at that moment, in case the
        worker comes back, and never calls it lost."""
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        for running in list(self._running.values()):
            if running.worker not in known and not running.future.done():
                running.future.cancel(reason=f"worker {running.worker} is gone")

    def next_news(self, timeout_s: float) -> News | None:
        """The next finished epoch or attempt; None if there is none in time."""
        try:
            news = self._news.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(news, AttemptFinished):
            del self._running[news.request.key]
            self._wish(news.request).delete()
        return news

    def request_end(self, request: AttemptRequest, outcome: Outcome) -> None:
        """Ask an attempt to end: PRUNED at its next epoch boundary, PAUSED at once after a checkpoint."""
        self._wish(request).set(outcome.value)

    def pause_all(self) -> None:
        for running in list(self._running.values()):
            self.request_end(running.request, Outcome.PAUSED)

    def _wish(self, request: AttemptRequest) -> Variable:
        return Variable(_wish_name(self._topic, request), client=self._client)

    def _on_event(self, event: tuple[float, dict]) -> None:
        _, message = event
        running = self._running.get(message["key"])
        if running is not None:
            self._news.put(EpochFinished(running.request, EpochMetrics(**json.loads(message["metrics"]))))

    def _on_done(self, request: AttemptRequest, worker: str, future: Future) -> None:
        try:
            end = future.result()
        # Whatever it is: an attempt without an end would leave its trial waiting for ever.
        except Exception as error:  # noqa: BLE001
            end = _end_of_lost_runner(request, error)
        self._news.put(AttemptFinished(request, end, worker))


def _end_of_lost_runner(request: AttemptRequest, error: Exception) -> AttemptEnd:
    kind = EndKind.INTERRUPTED if isinstance(error, _LOST_WITH_ITS_WORKER) else EndKind.CRASHED
    if is_disk_full(error):
        kind = EndKind.DISK_FULL
    return AttemptEnd.of_files(request.attempt, kind, reason=f"runner: {type(error).__name__}: {error}")


def _never_repeat_tasks(dask_scheduler: Scheduler) -> None:
    dask_scheduler.allowed_failures = 0


def _run_on_worker(request: AttemptRequest, topic: str) -> AttemptEnd:
    worker = get_worker()
    wish = Variable(_wish_name(topic, request), client=get_client())

    def relay(metrics: EpochMetrics) -> None:
        worker.log_event(topic, {"key": request.key, "metrics": json.dumps(asdict(metrics))})

    def requested_end() -> Outcome | None:
        value = wish.get()
        return Outcome(value) if value else None

    return run_attempt(request, relay, requested_end)


def _wish_name(topic: str, request: AttemptRequest) -> str:
    return f"{topic}/{request.key}/wish"
