"""A study goes on whatever breaks, on a real Slurm, by the real commands.

Each trial starts TensorFlow anew after each fault, which is what takes the time: the faults share a few trials.
"""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.sandbox import Isolation, Sandbox, SandboxShape
from tests.cluster.installed_slurm import needs_slurm
from tests.cluster.slurm_study import START_S, SlurmStudy
from tests.cluster.stranger import connect_as_stranger
from tests.needs_root import needs_root
from tests.waiting import wait_until

pytestmark = [needs_slurm, pytest.mark.timeout(900)]

# Two ranks with 128 + 16 samples each, in batches of 8: 18 reads an epoch.
IN_THE_SECOND_EPOCH = 20

# Of a job of the test's own, whose output would lie in this project.
QUIET = ("--output=/dev/null",)

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
    # The others go on, and then wait for it.
    study.release_ranks(len(study.trial(0).attempts()))


def lose_first_node(study: SlurmStudy, job: str) -> None:
    study.sandbox.kill_node(study.nodes_of(job)[0])


def lose_other_node(study: SlurmStudy, job: str) -> None:
    study.sandbox.kill_node(study.nodes_of(job)[-1])


def preempt_job(study: SlurmStudy, job: str) -> None:
    nodes = str(len(study.sandbox.layout.nodes))
    study.sandbox.run("sbatch", "--partition=urgent", f"--nodes={nodes}", "--exclusive", *QUIET, "--wrap", "sleep 3")


def test_a_trial_outlives_all_that_happens_to_its_jobs(study: SlurmStudy) -> None:
    faults = [cancel_job, requeue_job, preempt_job, kill_worker, kill_rank, hang_rank, lose_first_node, lose_other_node]
    # Long enough for ranks that wait for a fault, short enough for the one that hangs.
    study.epochs, study.hold_at_read, study.stall_s = len(faults) + 2, IN_THE_SECOND_EPOCH, 40
    # None of it is a fault of the trial's.
    study.crash_retries = 0
    study.start()
    study.wait_for_held_ranks(attempt=1)
    # A controller that restarts is none of these: the trial trains on without it.
    study.sandbox.kill_controller()
    study.wait_for_output("the batch system does not say how the jobs are: squeue: ", 60)
    study.sandbox.start_controller()
    for attempt, fault in enumerate(faults, start=1):
        study.wait_for_held_ranks(attempt)
        print(f"{fault.__name__}: jobs {study.job_ids()}")
        fault(study, study.job_ids()[-1])
    study.hold_no_more()

    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    # Each fault ended an attempt; the allocation that lost a node may have ended another.
    assert len(study.attempt_ends()) > len(faults), study.attempt_ends()


def test_ranks_of_mpirun_and_their_driver_know_their_own_from_strangers(study: SlurmStudy) -> None:
    study.launcher, study.epochs, study.hold_at_read = "mpirun", 2, IN_THE_SECOND_EPOCH
    study.start()
    study.wait_for_held_ranks(attempt=1)
    scheduler = next(word for word in study.worker().cmdline() if word.startswith("tls://"))
    assert "TLS" in connect_as_stranger(scheduler)
    # As one that sbatch accepted after the driver had given up on it.
    folder = study.study_dir / "jobs"
    name = study.sandbox.run("squeue", "--noheader", "--format=%j").strip()
    stray = ("--parsable", f"--job-name={name}", f"--chdir={folder}", *QUIET, "--wrap", "sleep 600")
    job = study.sandbox.run("sbatch", *stray).strip()
    wait_until(lambda: job not in study.job_ids(), 60)
    study.hold_no_more()
    kill_rank(study, job)

    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    assert study.attempt_ends() == ["interrupted", "completed"]
    assert len(study.jobs_that_ran()) == 1


def test_what_happens_to_one_trial_is_nothing_to_the_other(study: SlurmStudy) -> None:
    study.trials, study.jobs, study.epochs = 2, 2, 3
    study.hold_at_read = IN_THE_SECOND_EPOCH
    study.start()
    for trial in range(2):
        study.wait_for_held_ranks(attempt=1, trial=trial)
    study.hold_no_more()
    lose_other_node(study, study.job_ids()[0])
    # While one trial goes on elsewhere, the other one waits; its ranks would otherwise have ended long ago.
    wait_until(lambda: any(len(study.trial(trial).attempts()) > 1 for trial in range(2)), START_S)
    for trial in range(2):
        study.release_ranks(attempt=1, trial=trial)

    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    ends = sorted((study.attempt_ends(trial) for trial in range(2)), key=len)
    assert ends[0] == ["completed"]
    assert ends[1][-1] == "completed"
    assert "completed" not in ends[1][:-1]


def test_a_trial_outlives_its_drivers(study: SlurmStudy) -> None:
    study.epochs, study.hold_at_read = 5, IN_THE_SECOND_EPOCH
    for attempt, number in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGKILL), start=1):
        study.start()
        study.wait_for_held_ranks(attempt)
        study.driver.send_signal(number)
        if number is signal.SIGKILL:
            study.driver.wait(10)
        else:
            assert study.wait_for_end(60) == 128 + number, study.output
            study.require_nothing_left()
    # Nobody starts a driver again: its jobs end by themselves, once they have waited for their driver long enough.
    study.require_nothing_left(90)

    study.hold_no_more()
    study.start()
    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    assert study.attempt_ends()[:2] == ["paused", "paused"]


def test_jobs_of_a_killed_driver_that_never_started_are_cancelled_by_the_next_one(study: SlurmStudy) -> None:
    study.epochs = 1
    blocking = ("--parsable", "--nodes=4", "--gres=gpu:1", *QUIET, "--wrap", "sleep 600")
    blocker = study.sandbox.run("sbatch", *blocking).strip()
    study.pending_notice_s = 3
    study.start()
    study.wait_for_output("has been waiting in the queue", 60)
    assert re.search(r"waiting in the queue for \d+ s: PENDING \(\w+\)\. nodes of partition gpu: ", study.output)
    study.driver.kill()
    study.driver.wait(10)
    (left,) = [job for job in study.job_ids() if job != blocker]

    study.start()
    study.wait_for_output(f"cancelled what was left in the queue: job {left}", 60)
    study.sandbox.run("scancel", blocker)
    assert study.wait_for_end(2 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()


def test_a_trial_goes_on_in_the_next_job_when_the_walltime_is_over(study: SlurmStudy) -> None:
    study.walltime, study.epochs, study.hold_at_read = "00:01:00", 3, IN_THE_SECOND_EPOCH
    study.start()
    study.wait_for_held_ranks(attempt=1)
    # Only the walltime's end calls them; the next attempt's ranks do not wait.
    study.hold_no_more()

    assert study.wait_for_end(4 * START_S) == 0, study.output
    study.require_nothing_left()
    study.require_complete()
    assert len(study.attempt_ends()) > 1
    assert set(study.attempt_ends()) == {"paused", "completed"}
    # No attempt was started in what was left of the job before: it was too little for one.
    assert len(study.jobs_that_ran()) == len(study.attempt_ends())


@needs_root
def test_a_driver_that_the_nodes_cannot_reach_is_one_error_with_its_address(tmp_path: Path) -> None:
    with Sandbox.start(SandboxShape(nodes=2, gpus_per_node=1), isolation=Isolation.NETWORK) as sandbox:
        # The nodes have a loopback interface of their own, on which nobody listens.
        study = SlurmStudy(sandbox, tmp_path, interface="eth0", driver_interface="lo", death_timeout_s=5)
        study.start()

        assert study.wait_for_end(START_S) == 2, study.output
        said = r"[3-9] jobs in a row ended before their runner could reach the driver at tls://127\.0\.0\.1:\d+"
        assert re.search(f"error: {said}", study.output), study.output
        assert "compute nodes reach that address (slurm.interface='eth0')" in study.output
        assert "Traceback" not in study.output
        study.require_nothing_left()


@needs_root
def test_a_cut_off_attempt_changes_nothing_any_more() -> None:
    shape = SandboxShape(nodes=4, gpus_per_node=1, slurmd_timeout_s=10)
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox.start(shape, isolation=Isolation.NETWORK) as sandbox,
    ):
        study = SlurmStudy(sandbox, Path(folder), epochs=4, interface="eth0", driver_interface=sandbox.layout.bridge)
        study.hold_at_read, study.stall_s = IN_THE_SECOND_EPOCH, 300
        try:
            study.start()
            study.wait_for_held_ranks(attempt=1)
            first = study.nodes_of(study.job_ids()[-1])[0]
            sandbox.cut(first)
            study.wait_for_held_ranks(attempt=2)
            late = len(study.trial(0).attempt(1).read_metrics())
            study.hold_no_more()
            study.release_ranks(attempt=1)
            sandbox.heal(first)
            study.release_ranks(attempt=2)

            assert study.wait_for_end(2 * START_S) == 0, study.output
            assert len(study.trial(0).attempt(1).read_metrics()) <= late + 1
            assert study.trial(0).attempt(1).read_result() is None
            study.require_nothing_left()
            study.require_complete()
        finally:
            study.stop()
