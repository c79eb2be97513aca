"""Which jobs there should be, decided from what is known of them. Pure: no clock, no command, no thread.

A job is active from the moment that it is asked for, and ending from the moment that it is not wanted any more or its
runner is gone. It is released once the batch system has confirmed that nothing of it runs, or after `fence_s`: only
then do the attempts on it count as ended, so that their successors do not start beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from cluster.batch_system import JobState, QueuedJob


@dataclass(frozen=True)
class Limits:
    """How patient a pool is."""

    pending_notice_s: float = 600.0
    """When a job has waited for so long a person is told, and again at each doubling."""
    runner_gone_s: float = 10.0
    """For a job whose runner is gone to end by itself, and to say how."""
    fence_s: float = 60.0
    """For the batch system to confirm the end of a job."""
    cancel_again_s: float = 10.0
    first_pause_s: float = 10.0
    longest_pause_s: float = 600.0
    """Between submissions when one after the other fails; the pause doubles from the first one."""
    jobs_before_first_runner: int = 3
    jobs_between_runners: int = 10
    """Jobs in a row that may end before their runner has come."""


@dataclass(frozen=True)
class Job:
    """What the pool knows of a job that it asked for."""

    name: str
    nodes: int
    asked_s: float
    job_id: str | None = None
    """None: the batch system has not said."""
    answered_s: float | None = None
    """When the submission was answered, or had taken too long; None while it is under way."""
    words: str = ""
    """The batch system's last ones of the job."""
    misses: int = 0
    """Answers in a row that did not know the job."""
    time_left_s: float = float("inf")
    seen_s: float = 0.0
    """When `time_left_s` was so."""
    had_runner: bool = False
    runner_gone_s: float | None = None
    over_s: float | None = None
    """Since when the batch system has said that it is over."""
    ending_s: float | None = None
    """Since when it is ending."""
    why: str = ""
    """It is ending."""
    cancel_s: float = float("-inf")
    """When to cancel it, or to cancel it again."""
    next_notice_s: float = 0.0
    """How long it has to wait until a person is told again."""

    @property
    def is_ending(self) -> bool:
        return self.ending_s is not None


@dataclass(frozen=True)
class Jobs:
    """All that a pool remembers from one decision to the next."""

    prefix: str
    jobs: tuple[Job, ...] = ()
    asked: int = 0
    """How many jobs there have been, for their names."""
    failures: int = 0
    """Submissions that failed and jobs that ended before their runner came, in a row."""
    submit_s: float = float("-inf")
    """When the next job may be asked for."""
    any_accepted: bool = False
    any_runner: bool = False
    jobs_without_runner: int = 0
    """In a row."""
    strays: frozenset[str] = field(default=frozenset())
    """Ids of jobs that a person has been told about."""

    def find(self, name: str) -> Job | None:
        return next((job for job in self.jobs if job.name == name), None)

    def change(self, name: str, **changes: Any) -> Jobs:
        return replace(self, jobs=tuple(replace(job, **changes) if job.name == name else job for job in self.jobs))

    def without(self, name: str) -> Jobs:
        return replace(self, jobs=tuple(job for job in self.jobs if job.name != name))

    @property
    def need_an_answer(self) -> bool:
        """Whether something is decided as soon as the batch system says how the jobs are."""
        return any(
            job.is_ending or job.runner_gone_s is not None or (job.answered_s is not None and job.job_id is None)
            for job in self.jobs
        )


@dataclass(frozen=True)
class QueueAnswer:
    """What the batch system said."""

    asked_s: float
    """When it was asked: a job that was submitted later cannot be in it."""
    jobs: tuple[QueuedJob, ...]


@dataclass(frozen=True)
class Submit:
    name: str
    nodes: int


@dataclass(frozen=True)
class Cancel:
    job_ids: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """Nothing of the job runs any more, as far as anybody can know: the attempts on it have ended."""

    name: str
    why: str
    unconfirmed_id: str | None = None
    """Of a job whose end nobody has confirmed."""


@dataclass(frozen=True)
class Notice:
    text: str


@dataclass(frozen=True)
class NoticeWaiting:
    """A job has been waiting for long; the batch system may know why."""

    text: str


class Trouble(Enum):
    """Why a pool cannot work."""

    REFUSED = auto()
    """The batch system takes no job."""
    OTHER_SHAPE = auto()
    """Jobs are given other nodes than were asked for."""
    NO_RUNNER = auto()
    """Jobs end before their runner has reached the driver."""


@dataclass(frozen=True)
class GiveUp:
    """The pool cannot work."""

    trouble: Trouble
    reason: str
    log_of: str | None = None
    """Id of the job whose log tells more."""


Action = Submit | Cancel | Release | Notice | NoticeWaiting | GiveUp


def reconcile(
    jobs: Jobs,
    queue: QueueAnswer | None,
    runners: frozenset[str],
    wanted: Mapping[int, int],
    now_s: float,
    limits: Limits,
) -> tuple[Jobs, list[Action]]:
    """The jobs as they are to be remembered, and what is to be done now.

    Args:
        queue: None if there is no new answer.
        runners: Names of the jobs whose runners are there.
        wanted: How many jobs there should be, by the nodes of each.
    """
    actions: list[Action] = []
    jobs = _observe(jobs, queue, runners, now_s)
    for job in jobs.jobs:
        jobs = (_end if job.is_ending else _look_after)(jobs, job, queue, runners, now_s, limits, actions)
    if queue is not None:
        jobs = _cancel_strays(jobs, queue, actions)
    return _fit(jobs, wanted, now_s, actions), actions


def submitted(jobs: Jobs, name: str, job_id: str, now_s: float) -> Jobs:
    """The batch system has taken a job."""
    return replace(jobs.change(name, job_id=job_id, answered_s=now_s), any_accepted=True)


def unanswered(jobs: Jobs, name: str, words: str, now_s: float, limits: Limits) -> tuple[Jobs, list[Action]]:
    """Nobody knows whether the batch system has taken a job. Its queue will tell."""
    jobs, pause_s = _note_failure(jobs, now_s, limits)
    jobs = jobs.change(name, answered_s=now_s, words=words)
    return jobs, [Notice(f"{words}; no further job is submitted for {pause_s:.0f} s")]


def refused(
    jobs: Jobs, name: str, words: str, is_transient: bool, now_s: float, limits: Limits
) -> tuple[Jobs, list[Action]]:
    """The batch system has not taken a job."""
    jobs, pause_s = _note_failure(jobs.without(name), now_s, limits)
    if not is_transient and not jobs.any_accepted:
        return jobs, [GiveUp(Trouble.REFUSED, f"the batch system refuses this study's jobs: {words}")]
    return jobs, [Notice(f"the batch system refuses: {words}; trying again in {pause_s:.0f} s")]


def retire(jobs: Jobs, name: str, why: str, now_s: float) -> Jobs:
    """A job is given back."""
    job = jobs.find(name)
    return jobs if job is None or job.is_ending else jobs.change(name, ending_s=now_s, why=why, cancel_s=now_s)


def time_left_s(job: Job, now_s: float) -> float:
    """Of the job's walltime."""
    return job.time_left_s - (now_s - job.seen_s)


def _observe(jobs: Jobs, queue: QueueAnswer | None, runners: frozenset[str], now_s: float) -> Jobs:
    observed = []
    for job in jobs.jobs:
        seen = _observe_runner(job, runners, now_s)
        if queue is not None and job.answered_s is not None and queue.asked_s >= job.answered_s:
            seen = _observe_queue(seen, queue, now_s)
        observed.append(seen)
    arrived = any(new.had_runner and not old.had_runner for new, old in zip(observed, jobs.jobs, strict=True))
    jobs = replace(jobs, jobs=tuple(observed))
    if not arrived:
        return jobs
    return replace(jobs, any_runner=True, jobs_without_runner=0, failures=0, submit_s=float("-inf"))


def _observe_runner(job: Job, runners: frozenset[str], now_s: float) -> Job:
    if job.name in runners:
        return replace(job, had_runner=True, runner_gone_s=None)
    if job.had_runner and job.runner_gone_s is None:
        return replace(job, runner_gone_s=now_s)
    return job


def _observe_queue(job: Job, queue: QueueAnswer, now_s: float) -> Job:
    found = _find(queue, job)
    if found is None:
        over_s = job.over_s if job.misses == 0 else (job.over_s or now_s)
        return replace(job, misses=job.misses + 1, over_s=over_s)
    return replace(
        job,
        job_id=found.job_id,
        words=found.words,
        misses=0,
        time_left_s=found.time_left_s,
        seen_s=queue.asked_s,
        over_s=None if found.state.is_alive else job.over_s or now_s,
    )


def _find(queue: QueueAnswer, job: Job) -> QueuedJob | None:
    """By its id; by its name as long as nobody has said its id."""
    return next((queued for queued in queue.jobs if _is(queued, job)), None)


def _is(queued: QueuedJob, job: Job) -> bool:
    return queued.name == job.name if job.job_id is None else queued.job_id == job.job_id


def _look_after(
    jobs: Jobs,
    job: Job,
    queue: QueueAnswer | None,
    runners: frozenset[str],
    now_s: float,
    limits: Limits,
    actions: list[Action],
) -> Jobs:
    """An active job."""
    if job.over_s is not None and job.job_id is None:
        # Its submission was never answered, and it never was in the queue.
        return jobs.without(job.name)
    if job.over_s is not None and (job.name not in runners or now_s - job.over_s > limits.fence_s):
        said = job.words if job.misses == 0 else "no longer in the queue"
        jobs = jobs.change(job.name, ending_s=now_s, why=f"job {_id(job)} is over: {said}", cancel_s=now_s)
        return jobs if job.had_runner else _note_job_without_runner(jobs, job, now_s, limits, actions)
    if job.runner_gone_s is not None and now_s - job.runner_gone_s > limits.runner_gone_s:
        why = f"its runner is gone, while job {_id(job)} is {job.words or 'in an unknown state'}"
        return jobs.change(job.name, ending_s=now_s, why=why, cancel_s=now_s)
    found = _find(queue, job) if queue is not None else None
    if found is not None and found.state is JobState.RUNNING and found.nodes != job.nodes:
        actions.append(
            GiveUp(
                Trouble.OTHER_SHAPE,
                f"job {found.job_id} was given {found.nodes} nodes, but a trial is laid out for {job.nodes}",
            )
        )
    return _note_waiting(jobs, job, found, now_s, limits, actions)


def _end(
    jobs: Jobs,
    job: Job,
    queue: QueueAnswer | None,
    runners: frozenset[str],
    now_s: float,
    limits: Limits,
    actions: list[Action],
) -> Jobs:
    """A job that is ending."""
    ending_s = now_s if job.ending_s is None else job.ending_s
    is_confirmed = False
    if queue is not None and queue.asked_s >= ending_s and job.answered_s is not None:
        found = _find(queue, job)
        # One answer may leave a job out: the cancellation may have been lost as well.
        is_confirmed = job.misses > 1 if found is None else found.state is JobState.ENDED
    if is_confirmed and job.name not in runners:
        actions.append(Release(job.name, job.why))
        return jobs.without(job.name)
    if now_s - ending_s > limits.fence_s and job.answered_s is not None:
        actions.append(
            Notice(
                f"job {_id(job)} has not confirmed its end after {limits.fence_s:.0f} s ({job.words or 'no answer'}); "
                "its trial goes on without it"
            )
        )
        actions.append(Release(job.name, job.why, job.job_id))
        return jobs.without(job.name)
    if job.job_id is not None and now_s >= job.cancel_s:
        actions.append(Cancel((job.job_id,)))
        return jobs.change(job.name, cancel_s=now_s + limits.cancel_again_s)
    return jobs


def _note_job_without_runner(jobs: Jobs, job: Job, now_s: float, limits: Limits, actions: list[Action]) -> Jobs:
    jobs, pause_s = _note_failure(jobs, now_s, limits)
    count = jobs.jobs_without_runner + 1
    jobs = replace(jobs, jobs_without_runner=count)
    allowed = limits.jobs_between_runners if jobs.any_runner else limits.jobs_before_first_runner
    if count >= allowed:
        actions.append(
            GiveUp(
                Trouble.NO_RUNNER,
                f"{count} jobs in a row ended before their runner could reach the driver",
                log_of=_id(job),
            )
        )
    elif count & (count - 1) == 0:
        said = job.words if job.misses == 0 else "no longer in the queue"
        actions.append(
            Notice(f"job {_id(job)} ended before its runner came ({said}); the next one follows in {pause_s:.0f} s")
        )
    return jobs


def _note_failure(jobs: Jobs, now_s: float, limits: Limits) -> tuple[Jobs, float]:
    pause_s = min(limits.longest_pause_s, limits.first_pause_s * 2.0**jobs.failures)
    return replace(jobs, failures=min(jobs.failures + 1, 30), submit_s=now_s + pause_s), pause_s


def _note_waiting(
    jobs: Jobs, job: Job, found: QueuedJob | None, now_s: float, limits: Limits, actions: list[Action]
) -> Jobs:
    """Tell a person when a job has been waiting for long, and again when it has waited for twice as long."""
    waited_s = now_s - job.asked_s
    if found is None or job.had_runner or waited_s < max(job.next_notice_s, limits.pending_notice_s):
        return jobs
    if found.state is JobState.RUNNING:
        text = f"job {found.job_id} has been started, but its runner has not arrived after {waited_s:.0f} s"
        actions.append(Notice(text))
    else:
        text = f"job {found.job_id} has been waiting in the queue for {waited_s:.0f} s: {found.words}"
        actions.append(NoticeWaiting(text))
    return jobs.change(job.name, next_notice_s=2 * waited_s)


def _cancel_strays(jobs: Jobs, queue: QueueAnswer, actions: list[Action]) -> Jobs:
    """Cancel jobs that nobody wants: those of an earlier driver, and one that was given up and lives."""
    strays = [
        queued.job_id
        for queued in queue.jobs
        if queued.state.is_alive and not any(_is(queued, job) for job in jobs.jobs)
    ]
    if not strays:
        return jobs
    actions.append(Cancel(tuple(strays)))
    if unknown := [job_id for job_id in strays if job_id not in jobs.strays]:
        actions.append(Notice(f"cancelled what was left in the queue: job {', '.join(unknown)}"))
    return replace(jobs, strays=jobs.strays | set(strays))


def _fit(jobs: Jobs, wanted: Mapping[int, int], now_s: float, actions: list[Action]) -> Jobs:
    """Have as many active jobs as are wanted."""
    for nodes in sorted({*wanted, *(job.nodes for job in jobs.jobs)}):
        jobs = _fit_of(nodes, jobs, wanted.get(nodes, 0), now_s, actions)
    return jobs


def _fit_of(nodes: int, jobs: Jobs, wanted: int, now_s: float, actions: list[Action]) -> Jobs:
    """As `_fit`, of those with so many nodes."""
    active = [job for job in jobs.jobs if not job.is_ending and job.nodes == nodes]
    unused = [job for job in active if not job.had_runner and job.answered_s is not None]
    for job in list(reversed(unused))[: max(0, len(active) - wanted)]:
        jobs = retire(jobs, job.name, "it is not needed any more", now_s)
    if now_s >= jobs.submit_s:
        for _ in range(wanted - len(active)):
            name = f"{jobs.prefix}{jobs.asked}"
            actions.append(Submit(name, nodes))
            jobs = replace(jobs, jobs=(*jobs.jobs, Job(name, nodes, now_s)), asked=jobs.asked + 1)
    return jobs


def _id(job: Job) -> str:
    return job.job_id or job.name
