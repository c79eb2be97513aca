"""What every batch system keeps: processes of this machine, the simulated cluster, and a real Slurm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.batch_system import BatchSystem, JobState, QueuedJob, SubmissionRefusedError
from cluster.sandbox import Sandbox, SandboxShape
from cluster.slurm.batch import Slurm
from tests.cluster.installed_slurm import needs_slurm
from tests.cluster.process_batch import process_pool
from tests.simulation.cluster import SimulatedBatchSystem
from tests.simulation.driver import SimulatedDriver
from tests.simulation.universe import Universe
from tests.waiting import wait_until

WITHIN_S = 60.0
UNKNOWN_ID = "4711"
NODES = 1
# They begin as those of one study do: other jobs in the same queue are not its own.
FIRST, SECOND, THIRD = (f"contract-{number}" for number in (1, 2, 3))


@dataclass(frozen=True)
class Site:
    """A batch system, and how its time passes."""

    batch: BatchSystem
    passes: Callable[[], None] = lambda: None

    def job(self, job_id: str) -> QueuedJob | None:
        found = [job for job in self.batch.queue() if job.job_id == job_id]
        assert len(found) <= 1
        return found[0] if found else None

    def is_alive(self, job_id: str) -> bool:
        job = self.job(job_id)
        return job is not None and job.state.is_alive

    def wait_until(self, holds: Callable[[], bool]) -> None:
        def holds_now() -> bool:
            self.passes()
            return holds()

        wait_until(holds_now, WITHIN_S)

    def wait_until_it_runs(self, job_id: str) -> QueuedJob:
        self.wait_until(lambda: (job := self.job(job_id)) is not None and job.state is JobState.RUNNING)
        job = self.job(job_id)
        assert job is not None
        return job

    def wait_until_it_is_over(self, job_id: str) -> None:
        self.wait_until(lambda: (job := self.job(job_id)) is None or job.state is JobState.ENDED)


@contextmanager
def processes(folder: Path) -> Iterator[Site]:
    # Only its batch system is asked for anything, and its scheduler is where the jobs' workers look for it.
    with process_pool() as (_, batch):
        yield Site(batch)


@contextmanager
def simulated(folder: Path, is_unlucky: Callable[[float], bool] = lambda probability: False) -> Iterator[Site]:
    universe = Universe(seed=0)
    # What goes wrong in that world goes wrong by chance.
    universe.world.chance = is_unlucky  # type: ignore[method-assign]
    batch = SimulatedBatchSystem(universe.cluster, SimulatedDriver(universe, 1, "login1"))
    yield Site(batch, lambda: universe.world.advance(1.0))


@contextmanager
def slurm(folder: Path, *directives: str) -> Iterator[Site]:
    def script(name: str, nodes: int) -> str:
        shape = (f"--job-name={name}", f"--nodes={nodes}")
        options = (*shape, f"--chdir={folder}", "--output=%j.log", "--time=1:00:00", *directives)
        return "\n".join(["#!/bin/sh", *(f"#SBATCH {option}" for option in options), "exec sleep 600", ""])

    with Sandbox.start(SandboxShape(nodes=2)) as sandbox, pytest.MonkeyPatch.context() as environment:
        for name, value in sandbox.environ.items():
            environment.setenv(name, value)
        yield Site(Slurm(folder, "contract-", script, dict(os.environ), None))


SITES = [pytest.param(processes), pytest.param(simulated), pytest.param(slurm, marks=needs_slurm)]


@pytest.fixture(scope="module", params=SITES)
def shared_site(request, tmp_path_factory) -> Iterator[Site]:
    with request.param(tmp_path_factory.mktemp("jobs")) as site:
        yield site


@pytest.fixture
def site(shared_site) -> Iterator[Site]:
    """Without jobs of the test before."""
    yield shared_site
    left = [job.job_id for job in shared_site.batch.queue() if job.state.is_alive]
    shared_site.batch.cancel(left)
    for job_id in left:
        shared_site.wait_until_it_is_over(job_id)


def test_a_job_that_was_taken_is_in_the_queue_with_its_name(site):
    job_id = site.batch.submit(FIRST, NODES)

    job = site.job(job_id)
    assert job is not None
    assert job.name == FIRST
    assert job.state.is_alive
    assert job.words


def test_a_job_that_runs_has_the_nodes_that_it_was_asked_with_and_says_how_much_time_is_left(site):
    jobs = [site.wait_until_it_runs(site.batch.submit(FIRST, 2))]
    site.batch.cancel([jobs[0].job_id])
    jobs.append(site.wait_until_it_runs(site.batch.submit(SECOND, 1)))

    assert [job.nodes for job in jobs] == [2, 1]
    assert all(job.time_left_s > 0 for job in jobs)


def test_several_jobs_have_ids_and_names_of_their_own(site):
    ids = {name: site.batch.submit(name, NODES) for name in (FIRST, SECOND, THIRD)}

    assert len(set(ids.values())) == 3
    queue = {job.job_id: job.name for job in site.batch.queue()}
    assert {name: queue[job_id] for name, job_id in ids.items()} == {name: name for name in ids}


def test_a_cancelled_job_ends_and_the_others_go_on(site):
    first, second = site.batch.submit(FIRST, NODES), site.batch.submit(SECOND, NODES)
    site.wait_until_it_runs(first)

    site.batch.cancel([first])

    site.wait_until_it_is_over(first)
    assert site.is_alive(second)


def test_several_jobs_are_cancelled_at_once_whether_they_run_or_wait(site):
    ids = [site.batch.submit(name, NODES) for name in (FIRST, SECOND, THIRD)]
    site.wait_until_it_runs(ids[0])

    site.batch.cancel(ids)

    for job_id in ids:
        site.wait_until_it_is_over(job_id)
    assert not any(map(site.is_alive, ids))


def test_to_cancel_what_is_over_or_was_never_there_changes_nothing(site):
    over, goes_on = site.batch.submit(FIRST, NODES), site.batch.submit(SECOND, NODES)
    site.batch.cancel([over])
    site.wait_until_it_is_over(over)

    site.batch.cancel([over])
    site.batch.cancel([UNKNOWN_ID])
    site.batch.cancel([])

    site.wait_until_it_runs(goes_on)
    assert not site.is_alive(over)


def test_what_is_over_or_was_never_there_does_not_protect_what_is_cancelled_with_it(site):
    over, goes_on = site.batch.submit(FIRST, NODES), site.batch.submit(SECOND, NODES)
    site.batch.cancel([over])
    site.wait_until_it_is_over(over)

    site.batch.cancel([over, UNKNOWN_ID, goes_on])

    site.wait_until_it_is_over(goes_on)
    assert not site.is_alive(goes_on)


def test_why_jobs_wait_and_what_one_printed_are_words_for_a_person(site):
    job_id = site.batch.submit(FIRST, NODES)

    assert site.batch.describe_waiting()
    assert isinstance(site.batch.log_tail(job_id), str)


# A process of this machine is never refused.


@pytest.mark.parametrize(
    ("open_site", "is_transient"),
    [
        # The chance of a refusal in tests/simulation/cluster.py.
        pytest.param(lambda folder: simulated(folder, lambda probability: probability == 0.03), True, id="simulated"),
        pytest.param(lambda folder: slurm(folder, "--partition=nowhere"), False, id="slurm", marks=needs_slurm),
    ],
)
def test_a_refused_job_is_not_in_the_queue_and_says_whether_it_may_be_taken_later(open_site, is_transient, tmp_path):
    with open_site(tmp_path) as site:
        with pytest.raises(SubmissionRefusedError) as refused:
            site.batch.submit(FIRST, NODES)

        assert refused.value.is_transient is is_transient
        assert str(refused.value)
        assert not site.batch.queue()
