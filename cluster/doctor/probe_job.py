"""The probe as a job of the batch system: submitted, followed, and taken out of the queue again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from cluster.batch_system import BatchSystem, BatchSystemError, JobState, QueuedJob, SubmissionRefusedError
from cluster.doctor.facts import JobFacts, QueueFacts
from cluster.doctor.folder import answer_questions
from cluster.doctor.job_folder import JobFolder

_LOOK_S = 0.1
_GONE_WITHIN_S = 20.0


class Examination(Protocol):
    """A batch system as the doctor sees it, for one examination."""

    @property
    def job_name(self) -> str: ...

    @property
    def nodes(self) -> int:
        """Of the job: those of a trial."""
        ...

    @property
    def queue_pause_s(self) -> float:
        """Between two questions about the queue."""
        ...

    def queue_facts(self) -> QueueFacts:
        """What it says on the login node; nothing is submitted."""
        ...

    def batch_system(self) -> BatchSystem:
        """With the probe as the program of its jobs."""
        ...

    def will_never_start(self, words: str) -> bool:
        """Whether a waiting job's state says that waiting is of no use."""
        ...


@dataclass(frozen=True)
class Limits:
    """How long a person waits."""

    start_within_s: float
    """For the queue to start the job."""
    run_within_s: float = 280.0
    """For the probe, once it was started."""
    files_seen_within_s: float = 60.0
    """Of a job that is over, through a network file system that remembers their absence."""
    needed: str = "less than a minute"
    """What the probe takes, in words."""


def run_probe_job(folder: JobFolder, examination: Examination, limits: Limits, say: Callable[[str], None]) -> JobFacts:
    """Submit the probe, answer its nodes until it is done, and leave no job behind."""
    batch, pause_s = examination.batch_system(), examination.queue_pause_s
    try:
        job_id = batch.submit(examination.job_name, examination.nodes)
        say(f"job {job_id} is submitted; it needs its nodes for {limits.needed}")
        watch = _follow(folder, batch, JobWatch(job_id, limits, examination.will_never_start), say, pause_s)
        return folder.collect(replace(watch.facts(), log_tail=batch.log_tail(job_id)))
    except SubmissionRefusedError as error:
        return JobFacts(refused=str(error))
    except BatchSystemError as error:
        # Nobody knows whether it was taken.
        return JobFacts(state=str(error), has_left_queue=False)
    finally:
        _remove_jobs(batch, pause_s, say)


@dataclass
class JobWatch:
    """What the queue has told of the job, and whether to wait on."""

    job_id: str
    limits: Limits
    will_never_start: Callable[[str], bool]
    submitted_s: float = field(default_factory=time.monotonic)
    seen_s: float = field(default_factory=time.monotonic)
    job: QueuedJob | None = None
    running_since_s: float | None = None
    _missed: int = 0

    def see(self, queue: Sequence[QueuedJob], now_s: float) -> None:
        found = next((job for job in queue if job.job_id == self.job_id), None)
        # One answer may miss a job.
        self._missed = 0 if found else self._missed + 1
        self.job, self.seen_s = found or self.job, now_s
        if found is not None and found.state is JobState.RUNNING and self.running_since_s is None:
            self.running_since_s = now_s

    @property
    def is_pending(self) -> bool:
        return self.job is None or self.job.state is JobState.PENDING

    @property
    def is_over(self) -> bool:
        return self._missed > 1 or (self.job is not None and not self.job.state.is_alive)

    @property
    def is_waiting_in_vain(self) -> bool:
        return self.job is not None and self.is_pending and self.will_never_start(self.job.words)

    def is_too_late(self, now_s: float) -> bool:
        if self.running_since_s is not None:
            return now_s - self.running_since_s > self.limits.run_within_s
        return now_s - self.submitted_s > self.limits.start_within_s

    def facts(self) -> JobFacts:
        return JobFacts(
            waited_s=(self.running_since_s or self.seen_s) - self.submitted_s,
            state="" if self.job is None else self.job.words,
            has_left_queue=self.is_over or not self.is_pending,
            waits_in_vain=self.is_waiting_in_vain,
        )


def _follow(
    folder: JobFolder, batch: BatchSystem, watch: JobWatch, say: Callable[[str], None], pause_s: float
) -> JobWatch:
    """Answer the nodes' questions until the probe is done, or never will be."""
    said = ""
    while folder.launch() is None:
        answer_questions(folder.path)
        time.sleep(_LOOK_S)
        now_s = time.monotonic()
        if now_s - watch.seen_s >= pause_s:
            with suppress(BatchSystemError):
                watch.see(batch.queue(), now_s)
            words = "" if watch.job is None else watch.job.words
            if words != said:
                said = words
                say(f"job {watch.job_id}: {words}")
        if watch.is_over:
            _await_first_sign(folder, watch.limits.files_seen_within_s)
            return watch
        if watch.is_waiting_in_vain or watch.is_too_late(now_s):
            return watch
    with suppress(BatchSystemError):
        watch.see(batch.queue(), time.monotonic())
    return watch


def _await_first_sign(folder: JobFolder, within_s: float) -> None:
    """Of a job that is over already."""
    until_s = time.monotonic() + within_s
    while not folder.begun.exists() and time.monotonic() < until_s:
        os.listdir(folder.path)  # noqa: PTH208  has a network file system look again
        time.sleep(_LOOK_S)


def _remove_jobs(batch: BatchSystem, pause_s: float, say: Callable[[str], None]) -> None:
    """Leave no job behind, not even one of which nobody knows whether it was taken."""
    until_s = time.monotonic() + _GONE_WITHIN_S
    left: list[QueuedJob] = []
    while time.monotonic() < until_s:
        try:
            left = [job for job in batch.queue() if job.state is not JobState.ENDED]
            if not left:
                return
            batch.cancel([job.job_id for job in left if job.state.is_alive])
        except BatchSystemError as error:
            say(f"{error}; trying again")
        time.sleep(min(pause_s, 1.0))
    for job in left:
        say(f"job {job.job_id} is still in the queue ({job.words}); it ends by itself within minutes")
