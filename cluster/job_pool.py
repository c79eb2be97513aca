"""Workers in jobs of a batch system: a thin shell around `reconcile`, which decides which jobs there should be.

A keeper thread looks at the jobs and does what is decided; the study's loop never waits for a command.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from cluster import reconcile
from cluster.batch_system import BatchSystem, BatchSystemError, JobState, SubmissionRefusedError
from cluster.pool import AttemptFinished, EpochFinished, Event, PoolError
from cluster.reconcile import (
    Cancel,
    GiveUp,
    Job,
    Jobs,
    Limits,
    Notice,
    NoticeWaiting,
    QueueAnswer,
    Release,
    Submit,
    Trouble,
)
from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure
from storage.protocol.clock import Clock
from storage.protocol.records import EpochMetrics, Outcome
from storage.protocol.trial_dir import AttemptDir

log = logging.getLogger(__name__)

_TICK_S = 1.0
# While something is decided by the next answer.
_LOOK_SOON_S = 2.0
# A request to stop may be lost with a connection.
_STOP_AGAIN_S = 5.0
# The ends of attempts come from their runners; the files are looked at in case one does not.
_SWEEP_EVERY_S = 15.0
_END_IS_LATE_S = 30.0
# Of a runner, beyond all that it grants its ranks.
_RUNNER_LATE_S = 300.0
_JOBS_GONE_WITHIN_S = 20.0
_CANCEL_TRIES = 2


class RunnerLink(Protocol):
    """The runners that have come to the driver, and what they tell. Calls answer at once."""

    def connect(self, on_epoch: Callable[[str, EpochMetrics], None], on_end: Callable[[str, AttemptEnd], None]) -> None:
        """Have what runners tell handed over, from any thread, with the key of its attempt."""
        ...

    def present(self) -> frozenset[str]:
        """Names of the runners that are there: those of their jobs."""
        ...

    def start(self, runner: str, request: AttemptRequest) -> None:
        """Have a runner begin an attempt. It may be lost together with the runner."""
        ...

    def send_stop(self, runner: str, key: str, outcome: Outcome) -> None:
        """Have an attempt asked to end. It may be lost."""
        ...

    def forget(self, key: str) -> None:
        """Nothing more of this attempt is of interest."""
        ...

    def address(self) -> str:
        """Where runners look for the driver."""
        ...

    def close(self) -> None: ...


class EventQueue(Protocol):
    """What happened, in order, from any thread to the study's loop."""

    def put(self, event: Event) -> None: ...

    def get(self, timeout_s: float) -> Event | None: ...


class ThreadEventQueue:
    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def put(self, event: Event) -> None:
        self._events.put(event)

    def get(self, timeout_s: float) -> Event | None:
        try:
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None


@dataclass
class _Running:
    request: AttemptRequest
    attempt: AttemptDir
    worker: str
    started_s: float
    alive_s: float
    """When there was a last sign of life in the attempt's files."""
    stop: Outcome | None = None
    stop_again_s: float = 0.0
    heartbeat: float | None = None
    end_seen_s: float | None = None


@dataclass
class _Usage:
    """What a job has had, as the batch system last said."""

    nodes: int
    used_s: float
    at_s: float
    is_running: bool

    def node_s(self, now_s: float) -> float:
        return self.nodes * (self.used_s + (now_s - self.at_s if self.is_running else 0.0))


@dataclass(frozen=True)
class PoolSettings:
    limits: Limits
    walltime_s: float
    queue_every_s: float
    advice: Mapping[Trouble, str] = field(default_factory=dict)
    """What a person can do about it, at this site."""


@dataclass
class JobPool:
    """A pool whose workers are jobs, each with a runner on its first node. A worker has its job's name.

    Args:
        attempt_dir: From a request to the attempt's folder, as the driver sees it.
    """

    batch: BatchSystem
    link: RunnerLink
    jobs: Jobs
    settings: PoolSettings
    clock: Clock
    attempt_dir: Callable[[AttemptRequest], AttemptDir]
    events: EventQueue = field(default_factory=ThreadEventQueue)

    def __post_init__(self) -> None:
        self.walltime_s = self.settings.walltime_s
        self._lock = threading.RLock()
        self._running: dict[str, _Running] = {}
        self._told: set[str] = set()
        """Workers whose attempt has ended, which the study has not heard yet."""
        self._notices: list[str] = []
        self._wanted: Mapping[int, int] = {}
        self._error: PoolError | None = None
        self._look_s, self._sweep_s = float("-inf"), 0.0
        self._is_silent = False
        self._left_behind: list[str] = []
        self._usage: dict[str, _Usage] = {}
        self._unconfirmed: set[str] = set()
        """Ids of jobs that nobody wants, and that may still be there."""
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="job keeper", daemon=True)
        self.link.connect(self._on_epoch, self._on_end)

    # The study's side.

    def __enter__(self) -> Self:
        # Before anything else: what an earlier driver left in the queue is cancelled, even if nothing is left to run.
        self.tick()
        self._keeper.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        if self._keeper.is_alive():
            self._keeper.join(_JOBS_GONE_WITHIN_S)
        self.give_back_all()
        self.link.close()

    def ask_for(self, workers: Mapping[int, int]) -> None:
        if self._error is not None:
            raise self._error
        self._wanted = workers

    def idle_workers(self) -> dict[str, int]:
        with self._lock:
            busy = self._told.union(running.worker for running in self._running.values())
            here = self.link.present()
            return {
                job.name: job.nodes
                for job in self.jobs.jobs
                if job.name in here and job.name not in busy and not job.is_ending
            }

    def time_left_s(self, worker: str) -> float:
        job = self.jobs.find(worker)
        return 0.0 if job is None else reconcile.time_left_s(job, self.clock.monotonic())

    def start(self, request: AttemptRequest, worker: str) -> None:
        now_s = self.clock.monotonic()
        with self._lock:
            self._running[request.key] = _Running(request, self.attempt_dir(request), worker, now_s, now_s)
            job = self.jobs.find(worker)
        if job is None:
            # It was there a moment ago. Nobody else would end the attempt: jobs are released once.
            self._release(worker, "its job had just ended")
        else:
            self.link.start(worker, request)

    def request_stop(self, request: AttemptRequest, outcome: Outcome) -> None:
        with self._lock:
            running = self._running.get(request.key)
            if running is None:
                return
            running.stop, running.stop_again_s = outcome, self.clock.monotonic() + _STOP_AGAIN_S
        self.link.send_stop(running.worker, request.key, outcome)

    def hurry(self) -> None:
        """The jobs are cancelled as the pool is closed: runners and ranks end with them."""

    def next_event(self, timeout_s: float) -> Event | None:
        event = self.events.get(timeout_s)
        if isinstance(event, AttemptFinished):
            with self._lock:
                self._told.discard(event.worker)
        return event

    def retire(self, worker: str) -> None:
        with self._lock:
            self.jobs = reconcile.retire(self.jobs, worker, "it was given back", self.clock.monotonic())

    def allocations(self) -> dict[str, float]:
        now_s = self.clock.monotonic()
        with self._lock:
            return {
                job_id: usage.node_s(now_s)
                for job_id, usage in self._usage.items()
                if usage.used_s > 0 or usage.is_running
            }

    def notices(self) -> Sequence[str]:
        with self._lock:
            notices, self._notices = self._notices, []
        return notices

    def left_behind(self) -> Sequence[str]:
        return self._left_behind

    # What runners tell.

    def _on_epoch(self, key: str, metrics: EpochMetrics) -> None:
        with self._lock:
            running = self._running.get(key)
            if running is None:
                return
            running.alive_s = self.clock.monotonic()
        self.events.put(EpochFinished(running.request, metrics))

    def _on_end(self, key: str, end: AttemptEnd) -> None:
        """An attempt ends once, whoever tells of it first."""
        with self._lock:
            running = self._running.pop(key, None)
            if running is not None:
                self._told.add(running.worker)
        if running is not None:
            self.link.forget(key)
            self.events.put(AttemptFinished(running.request, end, running.worker))

    # The keeper's side.

    def _keep(self) -> None:
        while not self._closing.wait(_TICK_S):
            try:
                self.tick()
            # A fault here would leave a study without jobs, and without a word.
            except Exception as error:
                log.exception("the keeper of the jobs failed")
                self._error = PoolError(f"the keeper of the jobs failed: {type(error).__name__}: {error}")
                return

    def tick(self) -> None:
        """Look at the jobs and do what follows from it."""
        answer = self._ask_queue()
        now_s = self.clock.monotonic()
        with self._lock:
            self.jobs, actions = reconcile.reconcile(
                self.jobs, answer, self.link.present(), self._wanted, now_s, self.settings.limits
            )
            if self.jobs.need_an_answer:
                self._look_s = min(self._look_s, now_s + min(_LOOK_SOON_S, self.settings.queue_every_s))
        for action in actions:
            self._do(action)
        self._send_stops_again(now_s)
        if now_s >= self._sweep_s:
            self._sweep_s = now_s + _SWEEP_EVERY_S
            self._sweep(now_s)

    def _ask_queue(self) -> QueueAnswer | None:
        asked_s = self.clock.monotonic()
        if asked_s < self._look_s:
            return None
        self._look_s = asked_s + self.settings.queue_every_s
        try:
            answer = QueueAnswer(asked_s, tuple(self.batch.queue()))
        except BatchSystemError as error:
            # A controller that restarts is away for a minute; the jobs run on without it.
            log.warning("the batch system does not say how the jobs are: %s", error)
            if not self._is_silent:
                self._say(f"the batch system does not say how the jobs are: {error}")
            self._is_silent = True
            return None
        self._is_silent = False
        self._note_usage(answer)
        self._unconfirmed &= {job.job_id for job in answer.jobs if job.state is not JobState.ENDED}
        return answer

    def _note_usage(self, answer: QueueAnswer) -> None:
        with self._lock:
            told = {job.job_id for job in answer.jobs}
            for job_id, usage in self._usage.items():
                if job_id not in told and usage.is_running:
                    # It has ended since the last answer, or this one leaves it out, and another will tell.
                    usage.used_s, usage.is_running = usage.used_s + answer.asked_s - usage.at_s, False
            for job in answer.jobs:
                is_running = job.state is JobState.RUNNING
                self._usage[job.job_id] = _Usage(job.nodes, job.used_s, answer.asked_s, is_running)

    def _do(self, action: reconcile.Action) -> None:
        match action:
            case Submit(name, nodes):
                self._submit(name, nodes)
            case Cancel(job_ids):
                if not self._cancel(job_ids):
                    self._unconfirmed.update(job_ids)
            case Release(name, why, unconfirmed_id):
                if unconfirmed_id is not None:
                    self._unconfirmed.add(unconfirmed_id)
                self._release(name, why)
            case Notice(text):
                self._say(text)
            case NoticeWaiting(text):
                self._say(f"{text}. {self.batch.describe_waiting()}. Still waiting.")
            case GiveUp(trouble, reason, log_of):
                self._give_up(trouble, reason, log_of)

    def _submit(self, name: str, nodes: int) -> None:
        now_s = self.clock.monotonic
        with self._lock:
            if now_s() < self.jobs.submit_s or self.jobs.find(name) is None:
                # One before it has just failed: this one waits as long.
                self.jobs = self.jobs.without(name)
                return
        actions: list[reconcile.Action] = []
        try:
            job_id = self.batch.submit(name, nodes)
        except SubmissionRefusedError as error:
            with self._lock:
                self.jobs, actions = reconcile.refused(
                    self.jobs, name, str(error), error.is_transient, now_s(), self.settings.limits
                )
        except BatchSystemError as error:
            with self._lock:
                self.jobs, actions = reconcile.unanswered(self.jobs, name, str(error), now_s(), self.settings.limits)
        else:
            log.info("%s: submitted as job %s", name, job_id)
            with self._lock:
                self.jobs = reconcile.submitted(self.jobs, name, job_id, now_s())
        for action in actions:
            self._do(action)

    def _cancel(self, job_ids: Sequence[str]) -> bool:
        log.info("cancelling job %s", ", ".join(job_ids))
        try:
            self.batch.cancel(job_ids)
        except BatchSystemError as error:
            log.warning("job %s could not be cancelled: %s", ", ".join(job_ids), error)
            return False
        return True

    def _release(self, name: str, why: str) -> None:
        log.info("%s: released: %s", name, why)
        with self._lock:
            lost = [running for running in self._running.values() if running.worker == name]
        for running in lost:
            wall_s = self.clock.monotonic() - running.started_s
            self._on_end(running.request.key, _end_by_files(running, why, wall_s))

    def _give_up(self, trouble: Trouble, reason: str, log_of: str | None) -> None:
        words = reason
        if log_of is not None:
            tail = self.batch.log_tail(log_of)
            words = f"{reason} at {self.link.address()}, the last one was {log_of}; its log ends with: {tail}"
        self._error = PoolError(f"{words}. {self.settings.advice.get(trouble, '')}".rstrip())

    def _send_stops_again(self, now_s: float) -> None:
        with self._lock:
            due = [r for r in self._running.values() if r.stop is not None and now_s >= r.stop_again_s]
            for running in due:
                running.stop_again_s = now_s + _STOP_AGAIN_S
        for running in due:
            if running.stop is not None:
                self.link.send_stop(running.worker, running.request.key, running.stop)

    def _sweep(self, now_s: float) -> None:
        """Find attempts that have ended, or whose runner hangs, without a word from their runner."""
        with self._lock:
            running = list(self._running.values())
        for each in running:
            try:
                has_ended = each.attempt.read_end_record() is not None
                heartbeat = each.attempt.read_heartbeat()
            except OSError as error:
                log.warning("%s cannot be read: %s", each.attempt.path, error)
                continue
            if heartbeat != each.heartbeat:
                each.heartbeat, each.alive_s = heartbeat, now_s
            if has_ended:
                each.end_seen_s = each.end_seen_s or now_s
            if each.end_seen_s is not None and now_s - each.end_seen_s >= _END_IS_LATE_S:
                why = "its runner did not tell its end"
                self._on_end(each.request.key, _end_by_files(each, why, now_s - each.started_s))
            elif now_s - each.alive_s > _silence_allowed_s(each):
                log.warning("attempt %s: its runner does not answer; its job is cancelled", each.request.key)
                with self._lock:
                    why = f"its runner has not answered for {now_s - each.alive_s:.0f} s"
                    self.jobs = reconcile.retire(self.jobs, each.worker, why, now_s)

    def give_back_all(self) -> None:
        """Cancel all jobs, and note those that may live on."""
        with self._lock:
            alive: list[Job] = list(self.jobs.jobs)
        ids = [job.job_id for job in alive if job.job_id is not None]
        ids += sorted(self._unconfirmed.union(self._jobs_never_told_of(alive)).difference(ids))
        if ids and not any(self._cancel(ids) for _ in range(_CANCEL_TRIES)):
            self._left_behind += [f"job {job_id}" for job_id in ids]

    def _jobs_never_told_of(self, alive: Sequence[Job]) -> list[str]:
        """Ids of this study's jobs that the batch system has kept to itself: of an earlier driver, or of a submission
        that it has not answered."""
        unanswered = {job.name for job in alive if job.job_id is None}
        if not self._is_silent and not unanswered:
            return []
        was_silent, self._look_s = self._is_silent, float("-inf")
        answer = self._ask_queue()
        if answer is None and was_silent:
            self._left_behind.append("any job of an earlier driver")
        told = [] if answer is None else answer.jobs
        self._left_behind += [f"job {name}" for name in sorted(unanswered.difference(job.name for job in told))]
        return [job.job_id for job in told if job.state.is_alive]

    def _say(self, text: str) -> None:
        with self._lock:
            self._notices.append(text)


def _end_by_files(running: _Running, why: str, wall_s: float) -> AttemptEnd:
    """Of an attempt that its runner told nothing of.

    Args:
        wall_s: For which it held its allocation, as far as the driver knows.
    """
    try:
        return running.attempt.end(Failure.INTERRUPTED, why, wall_s=wall_s)
    except OSError as error:
        return AttemptEnd(None, Failure.INTERRUPTED, f"{why}; its files cannot be read: {error}", wall_s=wall_s)


def _silence_allowed_s(running: _Running) -> float:
    """After which a runner would have ended its ranks, or said something, if it were alive."""
    request = running.request
    return request.rendezvous_timeout_s + request.heartbeat_timeout_s + request.grace_s + _RUNNER_LATE_S
