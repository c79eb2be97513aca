"""A study goes on whatever breaks, on a real Slurm, by the real commands.

Each trial starts TensorFlow anew after each fault, which is what takes the time: the faults share a few trials.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.sandbox import Isolation, Sandbox, SandboxShape
from tests.cluster.slurm_study import START_S, SlurmStudy

pytestmark = pytest.mark.timeout(900)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks")

SHAPE = SandboxShape(nodes=4, gpus_per_node=1, slurmd_timeout_s=5)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.start(SHAPE) as sandbox:
        yield sandbox


@pytest.fixture
def study(sandbox: Sandbox, tmp_path: Path) -> Iterator[SlurmStudy]:
    study = SlurmStudy(sandbox, tmp_path)
    yield study
    study.stop()
    for node in sandbox.layout.nodes:
        if not sandbox.processes(node):
            sandbox.start_node(node)
            sandbox.wait_for_state(node, "idle", within_s=30)


def cancel_job(study: SlurmStudy, job: str) -> None:
    study.sandbox.run("scancel", job)


def requeue_job(study: SlurmStudy, job: str) -> None:
    # As an operator may, whatever the job asked for.
    study.sandbox.run("scontrol", "update", f"JobId={job}", "Requeue=1")
    study.sandbox.run("scontrol", "requeue", job)


def kill_worker(study: SlurmStudy, job: str) -> None:
    study.worker().kill()


def kill_rank(study: SlurmStudy, job: str) -> None:
    study.ranks()[-1].kill()


def hang_rank(study: SlurmStudy, job: str) -> None:
    study.ranks()[-1].suspend()


def lose_first_node(study: SlurmStudy, job: str) -> None:
    study.sandbox.kill_node(study.nodes_of(job)[0])


def lose_other_node(study: SlurmStudy, job: str) -> None:
    study.sandbox.kill_node(study.nodes_of(job)[-1])


def test_a_trial_outlives_all_that_happens_to_its_jobs(study: SlurmStudy) -> None:
    faults = [cancel_job, requeue_job, kill_worker, kill_rank, hang_rank, lose_first_node, lose_other_node]
    study.epochs = 3 * len(faults)
    study.start()
    for attempt, fault in enumerate(faults, start=1):
        study.wait_for_epochs(attempt)
        print(f"{fault.__name__}: jobs {study.job_ids()}")
        fault(study, study.job_ids()[-1])

    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    assert len(study.attempt_ends()) > len(faults), study.attempt_ends()


def test_a_trial_outlives_its_drivers(study: SlurmStudy) -> None:
    study.epochs, study.train = 12, 2048
    for attempt, number in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGKILL), start=1):
        study.start()
        study.wait_for_epochs(attempt)
        study.driver.send_signal(number)
        if number is signal.SIGKILL:
            study.driver.wait(10)
        else:
            assert study.wait_for_end(60) == 128 + number, study.output
            study.require_nothing_left(20)
    # Nobody starts a driver again: its jobs end by themselves, once they have waited for their driver long enough.
    study.require_nothing_left(90)

    study.start()
    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    assert study.attempt_ends()[:2] == ["ended", "ended"]


def test_jobs_of_a_killed_driver_that_never_started_are_cancelled_by_the_next_one(study: SlurmStudy) -> None:
    study.epochs = 1
    blocker = study.sandbox.run("sbatch", "--parsable", "--nodes=4", "--gres=gpu:1", "--wrap", "sleep 600").strip()
    study.pending_notice_s = 3
    study.start()
    study.wait_for_output("has been waiting in the queue", 60)
    assert "Slurm's reason: " in study.output
    study.driver.kill()
    study.driver.wait(10)
    (left,) = [job for job in study.job_ids() if job != blocker]

    study.start()
    study.wait_for_output(f"cancelled what an earlier driver left in the queue: job {left}", 60)
    study.sandbox.run("scancel", blocker)
    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()


def test_a_trial_goes_on_in_the_next_job_when_the_walltime_is_over(study: SlurmStudy) -> None:
    study.walltime, study.epochs, study.train = "00:01:00", 20, 3072
    study.start()

    assert study.wait_for_end(4 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    assert len(study.attempt_ends()) > 1
    assert set(study.attempt_ends()) == {"ended"}


@needs_root
def test_a_cut_off_attempt_changes_nothing_any_more() -> None:
    shape = SandboxShape(nodes=4, gpus_per_node=1, slurmd_timeout_s=10)
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox.start(shape, isolation=Isolation.NETWORK) as sandbox,
    ):
        study = SlurmStudy(sandbox, Path(folder), epochs=10, interface="eth0", driver_interface=sandbox.layout.bridge)
        try:
            study.start()
            study.wait_for_epochs(attempt=1)
            first = study.nodes_of(study.job_ids()[-1])[0]
            sandbox.cut(first)
            study.wait_for_epochs(attempt=2)
            late = len(study.trial(0).attempt(1).read_metrics())
            sandbox.heal(first)

            assert study.wait_for_end(2 * START_S) == 0, study.output
            assert len(study.trial(0).attempt(1).read_metrics()) <= late + 1
            assert study.trial(0).attempt(1).read_result() is None
            study.require_nothing_left()
            study.require_complete()
        finally:
            study.stop()
