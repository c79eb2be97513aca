"""Runners in Slurm jobs: one job of several nodes each, a Dask worker on its first node.

dask-jobqueue submits and cancels. Which jobs there should be is decided here, by what Slurm's queue says of them: Dask
itself notices a job only when its worker comes, and calls one lost only when its worker goes.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import dask
from distributed import Client
from distributed.core import Status

from cluster import slurm_queue
from cluster.certificates import create_certificates
from cluster.jobqueue import StudyJobs, cluster_arguments, job_arguments, submission_environment, worker_security
from cluster.profile import SiteProfile, SlurmSettings
from cluster.slurm_queue import QueuedJob, SlurmCommandError

# Importing dask-jobqueue makes Ctrl-C end the process at once, with code 0 and its jobs left behind.
_on_ctrl_c = signal.getsignal(signal.SIGINT)
from dask_jobqueue.slurm import SLURMCluster, SLURMJob  # noqa: E402

signal.signal(signal.SIGINT, _on_ctrl_c)

log = logging.getLogger(__name__)

# A worker that closes reconnects no more, so its job only holds nodes. The time lets a job that ends do so by itself.
_WORKER_LOST_S = 10
_REFUSED_AGAIN_AFTER_S = 60
_MAX_JOBS_WITHOUT_WORKER = 3


class SlurmError(RuntimeError):
    """Slurm gives no jobs, or jobs in which no runner can start. Quotes Slurm's own words."""


class StudyJob(SLURMJob):
    """A job whose refusal is a value: dask-jobqueue would print a traceback and try again every second."""

    refusal: str | None = None

    async def start(self) -> None:
        try:
            await super().start()
        except (RuntimeError, OSError, ValueError) as error:
            self.refusal = slurm_queue.own_words(str(error))
            self.status = Status.running

    async def _submit_job(self, script_filename: str) -> str:
        return await self._call([self.submit_command, script_filename], env=submission_environment(os.environ))


class StudyCluster(SLURMCluster):
    """dask-jobqueue's cluster, in which no two jobs ever have the same name."""

    job_cls = StudyJob

    def __init__(self, jobs: StudyJobs, **arguments: Any) -> None:
        self._jobs, self._numbers = jobs, itertools.count()
        super().__init__(name=jobs.job_name, **arguments)

    def _new_worker_name(self, worker_number: int) -> str:
        # By Dask's count the name of a lost job is given again, and its worker may still be there.
        return f"{self._jobs.job_name}-{next(self._numbers)}"

    def _get_worker_security(self, security: object) -> object:
        return worker_security(self._jobs.tls)


@dataclass
class _Job:
    """What the pool remembers of a job that it asked for."""

    asked_s: float
    had_worker: bool = False
    worker_lost_s: float | None = None
    next_notice_s: float = 0.0


class SlurmPool:
    """A pool whose workers are Slurm jobs."""

    def __init__(self, profile: SiteProfile, slurm: SlurmSettings, jobs: StudyJobs) -> None:
        self.walltime_s = float(slurm.walltime_s)
        self._profile, self._slurm, self._study_jobs = profile, slurm, jobs
        jobs.folder.mkdir(parents=True, exist_ok=True)
        self._notices: list[str] = []
        self._cancel_leftovers()
        create_certificates(jobs.tls.folder, jobs.study_name)
        # What is lost is decided here; Dask's own clean-up would cancel by worker, 15 seconds later.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days"})
        try:
            self._cluster = StudyCluster(jobs, **cluster_arguments(profile, slurm, jobs))
        except RuntimeError as error:
            raise SlurmError(
                f"the driver cannot listen on the network interface {slurm.driver_interface or slurm.interface!r}: "
                f"{error}. Set slurm.interface, or slurm.driver_interface, of site {profile.name!r}."
            ) from error
        self.client = Client(self._cluster)
        self._jobs: dict[str, _Job] = {}
        self._queue: dict[str, QueuedJob] = {}
        self._look_again_s = 0.0
        self._submit_again_s = 0.0
        self._last_refusal: str | None = None
        self._any_accepted = False
        self._workers: dict[str, str] = {}
        self._jobs_without_worker = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._drop(list(self._jobs))
        self.client.close()
        self._cluster.close()

    def ask_for(self, workers: int) -> None:
        self._note_workers()
        self._note_refusals()
        if time.monotonic() >= self._look_again_s:
            self._look_at_queue()
        self._drop_broken_workers()
        surplus = len(self._jobs) - workers
        if surplus > 0:
            unused = [name for name, job in self._jobs.items() if not job.had_worker]
            self._drop(unused[-surplus:])
        elif surplus < 0 and time.monotonic() >= self._submit_again_s:
            self._submit(-surplus)

    def workers(self) -> set[str]:
        return set(self._workers)

    def retire(self, worker: str) -> None:
        log.info("%s: job %s is given back", self._workers[worker], self._job_id(self._workers[worker]))
        self._drop([self._workers.pop(worker)])

    def deadline_unix_s(self, worker: str) -> float:
        queued = self._queue.get(self._job_id(self._workers[worker]) or "")
        return queued.end_unix_s if queued else float("inf")

    def notices(self) -> list[str]:
        notices, self._notices = self._notices, []
        return notices

    def _note_workers(self) -> None:
        """Learn from the scheduler which workers there are; a change is reason to look at the queue."""
        known = self.client.scheduler_info(n_workers=-1)["workers"]
        found = {address: worker["name"] for address, worker in known.items() if worker["name"] in self._jobs}
        if found.keys() - self._workers.keys():
            self._look_again_s = 0.0
        self._workers = found
        now, present = time.monotonic(), set(found.values())
        for name, job in self._jobs.items():
            if name in present:
                job.had_worker, job.worker_lost_s = True, None
                self._jobs_without_worker = 0
            elif job.had_worker and job.worker_lost_s is None:
                job.worker_lost_s, self._look_again_s = now, 0.0

    def _note_refusals(self) -> None:
        refused = {name: job.refusal for name, job in self._cluster.workers.items() if job.refusal}
        self._any_accepted |= any(job.job_id for job in self._cluster.workers.values())
        for name, refusal in refused.items():
            self._drop([name])
            if not self._any_accepted:
                raise SlurmError(
                    f"sbatch refuses this study's jobs: {refusal}. Change [slurm] of site {self._profile.name!r}; "
                    "--dry-run shows the job script."
                )
            self._submit_again_s = time.monotonic() + _REFUSED_AGAIN_AFTER_S
            if refusal != self._last_refusal:
                self._say(f"sbatch refuses: {refusal}; trying again every {_REFUSED_AGAIN_AFTER_S} s")
            self._last_refusal = refusal

    def _look_at_queue(self) -> None:
        submitted = {name: job_id for name in self._jobs if (job_id := self._job_id(name))}
        is_submitting = len(submitted) < len(self._jobs)
        self._look_again_s = time.monotonic() + self._slurm.squeue_every_s
        try:
            queue = slurm_queue.read_queue(self._study_jobs.job_name)
        except SlurmCommandError as error:
            # A controller that restarts is away for a minute; the jobs run on without it.
            self._say(f"Slurm does not say how the jobs are: {error}")
            return
        self._queue = {job.job_id: job for job in queue}
        for name, job_id in submitted.items():
            queued = self._queue.get(job_id)
            if queued is None or not queued.is_alive:
                self._on_job_ended(name, job_id, queued)
            else:
                self._check_shape(queued)
                self._note_waiting(name, queued)
        if not is_submitting:
            self._cancel_strays(queue, set(submitted.values()))

    def _cancel_strays(self, queue: Sequence[QueuedJob], known: set[str]) -> None:
        """Cancel jobs of this study that the pool has given up: sbatch had not answered yet, or scancel failed."""
        strays = [job.job_id for job in self._own(queue) if job.is_alive and job.job_id not in known]
        if strays:
            log.info("job %s is not wanted any more", ", ".join(strays))
            with suppress(SlurmCommandError):
                slurm_queue.cancel(strays)

    def _own(self, queue: Sequence[QueuedJob]) -> list[QueuedJob]:
        """Those of this very study: another one, in another folder, may have its name."""
        return [job for job in queue if job.folder == str(self._study_jobs.folder)]

    def _on_job_ended(self, name: str, job_id: str, queued: QueuedJob | None) -> None:
        job = self._jobs[name]
        log.info("%s: job %s is over (%s)", name, job_id, queued.state if queued else "no longer in the queue")
        self._drop([name])
        if job.had_worker:
            return
        self._jobs_without_worker += 1
        if self._jobs_without_worker >= _MAX_JOBS_WITHOUT_WORKER:
            raise SlurmError(
                f"{self._jobs_without_worker} jobs in a row ended before their runner could reach the driver at "
                f"{self._cluster.scheduler_address}, the last one was {job_id}. Its log, "
                f"{self._study_jobs.log_path(job_id)}, ends with: {_tail(self._study_jobs, job_id)}. Check that "
                f"compute nodes reach that address (slurm.interface={self._slurm.interface!r}) and see this folder."
            )

    def _check_shape(self, queued: QueuedJob) -> None:
        if queued.is_running and queued.nodes != self._profile.nodes_per_trial:
            raise SlurmError(
                f"job {queued.job_id} was given {queued.nodes} nodes, but a trial is laid out for "
                f"{self._profile.nodes_per_trial}; check slurm.extra_directives of site {self._profile.name!r} "
                f"and what SBATCH_ variables and the site's submit plugin add."
            )

    def _note_waiting(self, name: str, queued: QueuedJob) -> None:
        """Say when a job has been waiting for long, and again when it has waited for twice as long."""
        job = self._jobs[name]
        waited_s = time.monotonic() - job.asked_s
        if job.had_worker or waited_s < max(job.next_notice_s, self._slurm.pending_notice_s):
            return
        job.next_notice_s = 2 * waited_s
        if queued.is_running:
            self._say(f"job {queued.job_id} has been started, but its runner has not arrived after {waited_s:.0f} s")
        else:
            state = slurm_queue.describe_partition(self._slurm.queue)
            self._say(
                f"job {queued.job_id} has been waiting in the queue for {waited_s:.0f} s; Slurm's reason: "
                f"{queued.reason}. {state}. Still waiting."
            )

    def _drop_broken_workers(self) -> None:
        """Give back jobs that run on without their worker, such as those of a node that is cut off."""
        now = time.monotonic()
        self._drop(
            [n for n, job in self._jobs.items() if job.worker_lost_s and now - job.worker_lost_s > _WORKER_LOST_S]
        )

    def _submit(self, jobs: int) -> None:
        before = set(self._cluster.worker_spec)
        self._cluster.scale(jobs=len(before) + jobs)
        self._jobs |= {name: _Job(time.monotonic()) for name in self._cluster.worker_spec if name not in before}

    def _drop(self, names: Sequence[str]) -> None:
        """Cancel jobs and forget them."""
        if not names:
            return
        for name in names:
            self._jobs.pop(name, None)
        self._workers = {address: name for address, name in self._workers.items() if name not in names}
        self._cluster.sync(self._close_jobs, names)

    async def _close_jobs(self, names: Sequence[str]) -> None:
        # Not by scale(): it chooses the jobs itself, and waits for workers that may be out of reach.
        for name in names:
            self._cluster.worker_spec.pop(name, None)
            job = self._cluster.workers.pop(name, None)
            if job is not None:
                await job.close()
                job.status = Status.closed

    def _job_id(self, name: str) -> str | None:
        job = self._cluster.workers.get(name)
        return None if job is None else job.job_id

    def _cancel_leftovers(self) -> None:
        """Cancel the jobs of a driver that died: they would start, find nobody, and hold their nodes meanwhile."""
        try:
            left = [job.job_id for job in self._own(slurm_queue.read_queue(self._study_jobs.job_name))]
            if left:
                slurm_queue.cancel(left)
                self._say(f"cancelled what an earlier driver left in the queue: job {', '.join(left)}")
        except SlurmCommandError as error:
            raise SlurmError(
                f"Slurm does not answer: {error}. Run this on a login node of the cluster, or, for a sandbox, "
                "in a shell that has evaluated what `python -m cluster.sandbox status` prints first."
            ) from error

    def _say(self, notice: str) -> None:
        self._notices.append(notice)


def job_script(profile: SiteProfile, slurm: SlurmSettings, jobs: StudyJobs) -> str:
    """The script that would be submitted; the driver's address and the number stand for what only a run knows."""
    arguments = job_arguments(profile, slurm, jobs) | {"security": worker_security(jobs.tls)}
    return StudyJob("tls://DRIVER:PORT", name=f"{jobs.job_name}-NUMBER", **arguments).job_script()


def _tail(jobs: StudyJobs, job_id: str) -> str:
    with suppress(OSError):
        lines = [line for line in jobs.log_path(job_id).read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return " / ".join(lines[-4:])
    return "(it printed nothing)"
