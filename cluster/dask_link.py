"""The runners of jobs, as Dask workers of the driver's scheduler.

Who is there is what the scheduler tells as it happens. Between driver and runner go: the request, as a task's argument;
each epoch, as an event; a request to stop, as a call; the end, as the task's result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, Future, Scheduler, SpecCluster, get_worker
from distributed.diagnostics.plugin import SchedulerPlugin

from cluster.attempt import Runner, StopSignal
from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure
from storage.protocol.codec import from_json, to_json
from storage.protocol.records import EpochMetrics, Outcome

log = logging.getLogger(__name__)

_ANSWER_WITHIN_S = 15.0

DASK_SETTINGS = {
    # A runner that is lost with its allocation is the study's to restart, from the checkpoint; Dask would run the same
    # attempt again, beside ranks that may still be alive.
    "distributed.scheduler.allowed-failures": 0,
    # By the driver's wall clock: when that jumps, every worker would be thrown out.
    "distributed.scheduler.worker-ttl": None,
}


class DaskLink:
    """The workers of a cluster that has a scheduler in this process."""

    def __init__(self, cluster: SpecCluster) -> None:
        self._cluster = cluster
        self._client = Client(cluster)
        # Names are this driver's own: nothing of a driver before it is taken for news.
        self._topic = f"switchyard-{uuid4().hex}"
        self._registry = _WorkerRegistry()
        self._futures: dict[str, Future] = {}
        cluster.sync(self._watch_workers)

    async def _watch_workers(self) -> None:
        scheduler: Any = self._cluster.scheduler
        scheduler.add_plugin(self._registry)
        for address in scheduler.workers:
            self._registry.add_worker(scheduler, address)

    def connect(self, on_epoch: Callable[[str, EpochMetrics], None], on_end: Callable[[str, AttemptEnd], None]) -> None:
        self._on_end = on_end

        def on_event(event: tuple[float, dict]) -> None:
            _, message = event
            on_epoch(message["key"], from_json(EpochMetrics, message["metrics"]))

        self._client.subscribe_topic(self._topic, on_event)

    def present(self) -> frozenset[str]:
        return frozenset(self._registry.addresses)

    def start(self, runner: str, request: AttemptRequest) -> None:
        address = self._registry.addresses.get(runner)
        if address is None:
            return  # Its job is released soon, and the attempt with it.
        future = self._client.submit(
            _run_on_worker,
            to_json(request),
            self._topic,
            key=f"{self._topic}/{request.key}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
        )
        self._futures[request.key] = future
        future.add_done_callback(lambda done: self._on_done(request.key, done))

    def send_stop(self, runner: str, key: str, outcome: Outcome) -> None:
        address = self._registry.addresses.get(runner)
        if address is not None:
            loop: Any = self._client.loop
            loop.add_callback(self._call_stop, address, f"{self._topic}/{key}", outcome)

    async def _call_stop(self, address: str, key: str, outcome: Outcome) -> None:
        call = self._client.run(
            request_stop, key, outcome.value, workers=[address], on_error="ignore", asynchronous=True
        )
        # It is sent again as long as the attempt runs.
        with suppress(OSError, asyncio.TimeoutError, ValueError):
            await asyncio.wait_for(call, _ANSWER_WITHIN_S)

    def forget(self, key: str) -> None:
        future = self._futures.pop(key, None)
        if future is not None and not future.done():
            future.cancel(reason="its attempt has ended")

    def address(self) -> str:
        return str(self._cluster.scheduler_address)

    def close(self) -> None:
        for closing in (self._client, self._cluster):
            with suppress(TimeoutError, asyncio.TimeoutError, OSError):
                closing.close(timeout=_ANSWER_WITHIN_S)

    def _on_done(self, key: str, future: Future) -> None:
        """An end that came as the task's result. Without one the runner was lost, which the scheduler tells."""
        if future.status == "finished":
            with suppress(TimeoutError, asyncio.TimeoutError, OSError):
                self._on_end(key, from_json(AttemptEnd, future.result(timeout=_ANSWER_WITHIN_S)))
        elif future.status == "error":
            error = future.exception(timeout=_ANSWER_WITHIN_S)
            log.warning("attempt %s: its task failed: %s", key, error)
            if key.rpartition("/")[0] and type(error).__name__ != "KilledWorker":
                reason = f"its runner failed: {type(error).__name__}: {error}"
                self._on_end(key, AttemptEnd(None, Failure.INTERRUPTED, reason))


class _WorkerRegistry(SchedulerPlugin):
    """The scheduler's workers, by name. Told as they come and go; a name is given once and never comes back."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self.addresses = {**self.addresses, str(scheduler.workers[worker].name): worker}

    def remove_worker(self, scheduler: Scheduler, worker: str, **details: object) -> None:
        self.addresses = {name: address for name, address in self.addresses.items() if address != worker}


def scheduler_settings() -> dask.config.set:
    """For the making of a scheduler."""
    return dask.config.set(DASK_SETTINGS)


# What follows runs in the worker.

_stops: dict[str, StopSignal] = {}
_runner = Runner()


def request_stop(key: str, outcome: str) -> None:
    """Ask an attempt of this worker to end; nothing happens if it has."""
    stop = _stops.get(key)
    if stop is not None:
        stop.request(Outcome(outcome))


def _run_on_worker(request_json: str, topic: str) -> str:
    request, worker = from_json(AttemptRequest, request_json), get_worker()
    key = f"{topic}/{request.key}"

    def relay(metrics: EpochMetrics) -> None:
        worker.log_event(topic, {"key": request.key, "metrics": to_json(metrics)})

    stop = _stops[key] = StopSignal()
    try:
        return to_json(_runner.run(request, relay, stop))
    finally:
        del _stops[key]
