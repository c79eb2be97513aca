"""The batch system's jobs: they wait, start, lose nodes, are preempted, and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.batch_system import BatchSystemError, JobState, QueuedJob, SubmissionRefusedError
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.driver import SimulatedDriver
    from tests.simulation.runner import SimulatedRunner

NODES_PER_TRIAL = 2
WALLTIME_S = 400.0
_SLOW_ANSWER_S = 20.0


@dataclass
class SimulatedJob:
    job_id: str
    name: str
    nodes: int
    driver: SimulatedDriver
    asked_s: float
    state: JobState = JobState.PENDING
    words: str = "PENDING (Priority)"
    ends_s: float = float("inf")
    runner: SimulatedRunner | None = None
    is_bad: bool = False
    """Its nodes cannot run ranks."""
    changed_s: float = 0.0
    history: list[tuple[float, JobState, str]] = field(default_factory=list)

    def set(self, state: JobState, words: str, now_s: float) -> None:
        self.history.append((now_s, self.state, self.words))
        self.state, self.words, self.changed_s = state, words, now_s

    def seen_at(self, at_s: float) -> tuple[JobState, str]:
        """What an answer tells that is as old as `at_s`."""
        for changed_s, state, words in self.history:
            if changed_s > at_s:
                return state, words
        return self.state, self.words


class SimulatedCluster:
    """The cluster and its controller."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: list[SimulatedJob] = []
        self.away_until_s = 0.0

    def submit(self, name: str, nodes: int, driver: SimulatedDriver) -> str:
        job = SimulatedJob(str(len(self.jobs) + 1), name, nodes, driver, self.world.now_s)
        job.is_bad = self.world.chance(0.05)
        self.jobs.append(job)
        self.world.after(self.world.between(1.0, 30.0), lambda: self._start(job))
        return job.job_id

    def _start(self, job: SimulatedJob) -> None:
        from tests.simulation.runner import SimulatedRunner

        if job.state is not JobState.PENDING:
            return
        job.set(JobState.RUNNING, "RUNNING", self.world.now_s)
        job.ends_s = self.world.now_s + WALLTIME_S
        self.world.after(WALLTIME_S, lambda: self.end(job, "TIMEOUT"))
        if self.world.chance(0.03):
            # Its prologue fails.
            self.world.after(2.0, lambda: self.end(job, "FAILED (NonZeroExitCode)"))
            return
        job.runner = SimulatedRunner(job, self)
        self.world.after(self.world.between(1.0, 5.0), job.runner.begin)

    def end(self, job: SimulatedJob, words: str, politely: bool = True) -> None:
        """The controller ends a job: its processes are signalled, or are gone with their node."""
        if not job.state.is_alive:
            return
        runner, job.runner = job.runner, None
        job.set(JobState.ENDING, "COMPLETING", self.world.now_s)
        self.world.log(f"job {job.job_id}", f"ends: {words}")
        # Some nodes take their time: what runs there lives on meanwhile.
        stays_s = self.world.between(60.0, 200.0) if self.world.chance(0.1) else self.world.between(0.5, 5.0)
        if runner is not None and not politely:
            runner.vanish()
        elif runner is not None and stays_s < 60.0:
            runner.job_is_cancelled()
        elif runner is not None:
            runner.hang()
            self.world.after(stays_s, runner.vanish)
        self.world.after(stays_s, lambda: job.set(JobState.ENDED, words, self.world.now_s))

    def end_soon(self, job: SimulatedJob) -> None:
        """As scancel has it."""
        self.world.after(self.world.between(0.0, 2.0), lambda: self.end(job, "CANCELLED"))

    def alive(self) -> list[SimulatedJob]:
        return [job for job in self.jobs if job.state.is_alive]


class SimulatedBatchSystem:
    """The commands of the batch system, as one driver runs them."""

    def __init__(self, cluster: SimulatedCluster, driver: SimulatedDriver) -> None:
        self._cluster, self._driver, self._world = cluster, driver, cluster.world

    def submit(self, name: str, nodes: int) -> str:
        self._command("sbatch")
        if self._world.chance(0.03):
            raise SubmissionRefusedError("job submit limit", is_transient=True)
        job_id = self._cluster.submit(name, nodes, self._driver)
        self._driver.may_die("after a submission")
        if self._world.chance(0.03):
            raise BatchSystemError("sbatch has not answered for 30 s")
        return job_id

    def cancel(self, job_ids: Sequence[str]) -> None:
        self._command("scancel")
        for job in self._cluster.jobs:
            if job.job_id in job_ids:
                if job.state is JobState.PENDING:
                    job.set(JobState.ENDED, "CANCELLED", self._world.now_s)
                else:
                    self._world.after(
                        self._world.between(0.0, 2.0), lambda job=job: self._cluster.end(job, "CANCELLED")
                    )

    def queue(self) -> Sequence[QueuedJob]:
        self._command("squeue")
        now_s = self._world.now_s
        # Its daemons answer by what they knew a moment ago.
        seen_s = now_s - (self._world.between(0.0, 2.0) if self._world.chance(0.1) else 0.0)
        told = []
        for job in self._cluster.jobs:
            state, words = job.seen_at(seen_s)
            is_forgotten = state is JobState.ENDED and now_s - job.changed_s > 100.0
            is_missed = self._world.chance(0.01)
            if job.asked_s <= seen_s and not is_forgotten and not is_missed:
                left_s = job.ends_s - now_s
                told.append(QueuedJob(job.job_id, job.name, state, words, job.nodes, left_s))
        return told

    def describe_waiting(self) -> str:
        return "nodes: 8 allocated"

    def log_tail(self, job_id: str) -> str:
        return "(it printed nothing)"

    def _command(self, name: str) -> None:
        self._driver.check_alive()
        if self._world.chance(0.02):
            self._driver.wait(self._world.between(0.0, _SLOW_ANSWER_S))
        if self._world.now_s < self._cluster.away_until_s or self._world.chance(0.01):
            raise BatchSystemError(f"{name}: Unable to contact slurm controller")
