"""What a pool of jobs leaves behind in a batch system that is away. The rest: tests/contracts/test_pools.py."""

from collections.abc import Sequence

import pytest

from cluster.batch_system import BatchSystemError, JobState, QueuedJob
from cluster.job_pool import JobPool, PoolSettings
from cluster.reconcile import Jobs, Limits
from storage.protocol.clock import SYSTEM_CLOCK
from tests.cluster.process_batch import attempt_dir

OF_AN_EARLIER_DRIVER = QueuedJob("17", "s-earlier-0", JobState.RUNNING, "RUNNING", 4, 3600.0)


class FleetingController:
    """A batch system of one job, whose controller answers when it likes."""

    def __init__(self, answers_queue: list[bool], answers_cancel: list[bool]) -> None:
        self._answers = {"squeue": answers_queue, "scancel": answers_cancel}
        self.cancelled: list[str] = []

    def queue(self) -> Sequence[QueuedJob]:
        self._answer("squeue")
        return [] if self.cancelled else [OF_AN_EARLIER_DRIVER]

    def cancel(self, job_ids: Sequence[str]) -> None:
        self._answer("scancel")
        self.cancelled += job_ids

    def _answer(self, command: str) -> None:
        if not self._answers[command].pop(0):
            raise BatchSystemError(f"{command}: Unable to contact slurm controller")


class ForgetfulController(FleetingController):
    """It takes a job, and its answer is lost."""

    def submit(self, name: str, nodes: int) -> str:
        self.submitted = name
        raise BatchSystemError("sbatch has not answered for 30 s")

    def queue(self) -> Sequence[QueuedJob]:
        self._answer("squeue")
        pending = QueuedJob("18", getattr(self, "submitted", ""), JobState.PENDING, "PENDING", 4, 3600.0)
        return [pending] if hasattr(self, "submitted") else []


class NoRunners:
    def connect(self, on_epoch, on_end) -> None:
        pass

    def present(self) -> frozenset[str]:
        return frozenset()

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answers_queue", "answers_cancel", "cancelled", "left_behind"),
    [
        pytest.param([True], [True], ["17"], [], id="it answers"),
        pytest.param([True], [False, True], ["17"], [], id="it cancels late"),
        pytest.param([True], [False] * 9, [], ["job 17"], id="it does not cancel"),
        pytest.param([False, True], [True], ["17"], [], id="it tells late"),
        pytest.param([False, False], [], [], ["any job of an earlier driver"], id="it is away"),
    ],
)
def test_a_study_that_ends_at_once_gives_back_what_an_earlier_driver_left(
    answers_queue, answers_cancel, cancelled, left_behind
):
    batch = FleetingController(answers_queue, answers_cancel)
    settings = PoolSettings(Limits(), float("inf"), queue_every_s=10.0)
    pool = JobPool(batch, NoRunners(), Jobs("s-"), settings, SYSTEM_CLOCK, attempt_dir)

    with pool:
        pass

    assert (batch.cancelled, pool.left_behind()) == (cancelled, left_behind)


@pytest.mark.parametrize(
    ("answers_queue", "cancelled", "left_behind"),
    [
        pytest.param([True, True], ["18"], [], id="it tells of the job"),
        pytest.param([True, False], [], ["job s-0"], id="it is away"),
    ],
)
def test_a_job_whose_submission_was_not_answered_is_given_back(answers_queue, cancelled, left_behind):
    batch = ForgetfulController(answers_queue, [True])
    settings = PoolSettings(Limits(), float("inf"), queue_every_s=1000.0)
    pool = JobPool(batch, NoRunners(), Jobs("s-"), settings, SYSTEM_CLOCK, attempt_dir)
    pool.ask_for({4: 1})

    # Without the thread that looks at the jobs.
    pool.tick()
    pool.give_back_all()

    assert (batch.cancelled, pool.left_behind()) == (cancelled, left_behind)
