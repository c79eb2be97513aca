"""What every pool keeps: threads of this process, jobs with real Dask workers, and the simulated ones.

The attempts' ranks are stand-ins for mpirun: what they do is not the pool's affair.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from cluster.local_pool import LocalPool
from cluster.pool import AttemptFinished, EpochFinished, Event, Pool
from storage.protocol.attempts import AttemptRequest, Failure, RankLayout
from storage.protocol.records import Outcome, TrialResult
from storage.protocol.trial_dir import AttemptDir, TrialDir
from tests.architecture.sources import REPOSITORY
from tests.cluster.process_batch import process_pool
from tests.waiting import wait_until

WITHIN_S = 60.0

PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
from storage.protocol.records import Outcome, TrialResult
from storage.protocol.trial_dir import TrialDir
from tests.storage.protocol.example_records import METRICS, REPORT
from tests.waiting import wait_until
words = sys.argv
trial = Path(words[words.index("trainers") + 1])
attempt = TrialDir(trial).attempt(int(next(w for w in words if w.startswith("--attempt=")).partition("=")[2]))
"""

TRAINS = """
attempt.append_metrics(METRICS)
attempt.append_metrics(METRICS)
attempt.write_result(TrialResult(Outcome.COMPLETED, 2))
"""
WAITS_FOR_A_PAUSE = """
def pause(number, frame):
    attempt.write_result(TrialResult(Outcome.PAUSED, 0))
    sys.exit(0)
signal.signal(signal.SIGUSR1, pause)
attempt.write_communicator(REPORT)
while True:
    signal.pause()
"""


@dataclass
class PoolAtWork:
    pool: Pool
    folder: Path
    batch: Any = None

    def request(self, trial: int, program: str) -> AttemptRequest:
        """An attempt whose mpirun is this Python program."""
        path = self.folder / f"{trial:04d}"
        attempt = TrialDir(path).new_attempt()
        mpirun = attempt.path / "bin" / "mpirun"
        mpirun.parent.mkdir()
        mpirun.write_text(f"#!{sys.executable}\n{PREAMBLE}{dedent(program)}")
        mpirun.chmod(0o755)
        environment = {"PATH": f"{mpirun.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
        layout = RankLayout(nodes=1, ranks_per_node=1, cpus_per_rank=1)
        return AttemptRequest(path, trial, attempt.number, layout, "mpirun", (), environment, grace_s=10.0)

    def worker(self) -> str:
        """One that is idle, once there is one."""
        return next(iter(wait_until(self.pool.idle_workers, WITHIN_S)))

    def start(self, trial: int, program: str) -> AttemptRequest:
        request = self.request(trial, program)
        self.pool.start(request, self.worker())
        return request

    def events_until(self, is_last: Callable[[Event], bool]) -> list[Event]:
        events: list[Event] = []

        def found() -> bool:
            event = self.pool.next_event(0.2)
            if event is not None:
                events.append(event)
            return bool(events) and is_last(events[-1])

        wait_until(found, WITHIN_S)
        return events

    def end(self) -> AttemptFinished:
        event = self.events_until(lambda event: isinstance(event, AttemptFinished))[-1]
        assert isinstance(event, AttemptFinished)
        return event


@contextmanager
def local_pool() -> Iterator[tuple[Pool, None]]:
    with LocalPool(2) as pool:
        yield pool, None


POOLS = {"threads": local_pool, "jobs": process_pool}


@pytest.fixture(params=POOLS)
def work(request, tmp_path) -> Iterator[PoolAtWork]:
    with POOLS[request.param]() as (pool, batch):
        pool.ask_for({1: 2})
        yield PoolAtWork(pool, tmp_path, batch)


def attempt_of(request: AttemptRequest) -> AttemptDir:
    return TrialDir(request.trial_dir).attempt(request.attempt_number)


def test_workers_come_when_they_are_asked_for(work):
    assert len(wait_until(lambda: len(work.pool.idle_workers()) == 2 and work.pool.idle_workers(), WITHIN_S)) == 2


def test_an_attempt_tells_its_epochs_in_order_and_then_its_end_once(work):
    request = work.start(7, TRAINS)

    events = work.events_until(lambda event: isinstance(event, AttemptFinished))

    assert [type(event) for event in events] == [EpochFinished, EpochFinished, AttemptFinished]
    assert all(event.request == request for event in events)
    assert events[-1].end.result == TrialResult(Outcome.COMPLETED, 2)
    assert work.pool.next_event(0.5) is None


def test_a_worker_is_busy_while_it_has_an_attempt_and_idle_afterwards(work):
    worker = work.worker()
    request = work.request(7, WAITS_FOR_A_PAUSE)

    work.pool.start(request, worker)
    assert worker not in work.pool.idle_workers()
    work.pool.request_stop(request, Outcome.PAUSED)
    work.end()

    wait_until(lambda: worker in work.pool.idle_workers(), WITHIN_S)


def test_a_worker_is_not_idle_before_the_end_of_its_attempt_was_taken(work):
    """Who finds it idle while its trial still counts as training gives its allocation back."""
    worker = work.worker()
    work.pool.start(request := work.request(7, TRAINS), worker)
    wait_until(lambda: attempt_of(request).read_end_record() is not None, WITHIN_S)

    with pytest.raises(TimeoutError):
        wait_until(lambda: worker in work.pool.idle_workers(), 2.0)
    work.end()

    assert worker in work.pool.idle_workers()


def test_one_worker_takes_one_attempt_after_another(work):
    worker = work.worker()
    for trial in range(3):
        work.pool.start(work.request(trial, TRAINS), worker)
        end = work.end()
        assert (end.worker, end.request.trial_number) == (worker, trial)


def test_attempts_on_several_workers_run_at_once(work):
    for trial in range(2):
        begins = f"(trial.parent / 'begun-{trial}').touch()"
        work.start(trial, f"{begins}\nwait_until(lambda: os.path.exists(trial.parent / 'go'))\n{TRAINS}")
    wait_until(lambda: all((work.folder / f"begun-{trial}").exists() for trial in range(2)), WITHIN_S)
    (work.folder / "go").touch()

    assert {work.end().request.trial_number for _ in range(2)} == {0, 1}


def test_a_request_to_pause_reaches_the_ranks(work):
    request = work.start(7, WAITS_FOR_A_PAUSE)
    wait_until(lambda: attempt_of(request).read_communicator(), WITHIN_S)

    work.pool.request_stop(request, Outcome.PAUSED)

    assert work.end().end.result == TrialResult(Outcome.PAUSED, 0)


@pytest.mark.parametrize("outcome", [Outcome.PRUNED, Outcome.HELD])
def test_a_request_to_prune_or_to_hold_reaches_the_ranks(work, outcome):
    prunes = (
        "attempt.write_communicator(REPORT)\nattempt.write_result(TrialResult(wait_until(attempt.requested_stop), 1))"
    )
    request = work.start(7, prunes)
    wait_until(lambda: attempt_of(request).read_communicator(), WITHIN_S)

    work.pool.request_stop(request, outcome)

    assert work.end().end.result == TrialResult(outcome, 1)


def test_a_request_for_an_attempt_that_has_ended_does_nothing(work):
    request = work.start(7, TRAINS)
    work.end()

    work.pool.request_stop(request, Outcome.PAUSED)

    assert work.pool.next_event(0.5) is None


def test_a_crash_is_an_end_with_a_reason_and_costs_no_worker(work):
    work.start(7, "attempt.record_rank_began()\nprint('ValueError: x', file=sys.stderr)\nsys.exit(1)")

    end = work.end().end

    assert (end.failure, end.reason) == (Failure.CRASHED, "ValueError: x (exit code 1)")
    work.start(8, TRAINS)
    assert work.end().end.result is not None


def test_leaving_the_pool_pauses_what_still_runs(tmp_path):
    for name, open_pool in POOLS.items():
        with open_pool() as (pool, batch):
            pool.ask_for({1: 1})
            work = PoolAtWork(pool, tmp_path / name, batch)
            request = work.start(7, WAITS_FOR_A_PAUSE)
            wait_until(lambda request=request: attempt_of(request).read_communicator(), WITHIN_S)

        result = wait_until(attempt_of(request).read_result, WITHIN_S)
        assert result.outcome is Outcome.PAUSED, name
        assert pool.left_behind() == [], name


def test_leaving_a_local_pool_in_a_hurry_waits_for_no_checkpoint(tmp_path):
    """Jobs are cancelled as their pool is left, in a hurry or not."""
    deaf = (
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\nattempt.write_communicator(REPORT)\nwhile True: signal.pause()"
    )
    with local_pool() as (pool, _):
        work = PoolAtWork(pool, tmp_path)
        # A wait for these would last longer than the test may.
        request = dataclasses.replace(work.request(7, deaf), grace_s=3600.0)
        pool.start(request, work.worker())
        wait_until(lambda: attempt_of(request).read_communicator(), WITHIN_S)
        pool.hurry()

    assert attempt_of(request).read_result() is None
    assert pool.left_behind() == []


# What only pools of jobs can lose.


@pytest.fixture
def jobs(tmp_path) -> Iterator[PoolAtWork]:
    with process_pool() as (pool, batch):
        pool.ask_for({1: 1})
        yield PoolAtWork(pool, tmp_path, batch)


def test_an_attempt_whose_worker_is_killed_ends_as_interrupted_with_a_reason_and_its_job_is_replaced(jobs):
    worker = jobs.worker()
    request = jobs.start(7, WAITS_FOR_A_PAUSE)
    wait_until(lambda: attempt_of(request).read_communicator(), WITHIN_S)

    jobs.batch.processes["1"][1].kill()

    end = jobs.end()
    # Its ranks outlive it by the time that they need to save.
    assert end.end.failure is Failure.INTERRUPTED or end.end.result.outcome is Outcome.PAUSED
    assert "job 1 is over: exit code -9" in end.end.reason or end.end.result is not None
    assert jobs.worker() != worker


def test_an_attempt_is_not_given_up_before_its_job_has_ended(jobs):
    request = jobs.start(7, WAITS_FOR_A_PAUSE)
    wait_until(lambda: attempt_of(request).read_communicator(), WITHIN_S)

    jobs.batch.processes["1"][1].kill()
    jobs.end()

    assert jobs.batch.processes["1"][1].poll() is not None


def test_a_worker_that_is_told_of_an_attempt_and_dies_at_that_moment_costs_nothing(jobs):
    worker = jobs.worker()
    request = jobs.request(7, TRAINS)
    jobs.batch.processes["1"][1].kill()
    jobs.batch.processes["1"][1].wait()

    jobs.pool.start(request, worker)

    assert jobs.end().end.failure is Failure.INTERRUPTED


def test_an_attempt_for_a_worker_whose_job_is_gone_ends_at_once(jobs):
    request = jobs.request(7, TRAINS)

    jobs.pool.start(request, "contract-99")

    assert (jobs.end().end.failure, jobs.pool.next_event(0.1)) == (Failure.INTERRUPTED, None)


def test_workers_have_the_nodes_that_they_were_asked_for_with(jobs):
    jobs.pool.ask_for({1: 1, 2: 1})

    wait_until(lambda: len(jobs.pool.idle_workers()) == 2, WITHIN_S)

    assert sorted(jobs.pool.idle_workers().values()) == [1, 2]


def test_living_workers_are_never_taken_for_lost(jobs):
    """D0: a cache that other calls empty for a moment was asked who is there; one in 50,000 answers was wrong."""
    jobs.worker()
    # What emptied it: Dask's own callback asks for no workers every two seconds, and so does this.
    jobs.pool.link._client.scheduler_info(n_workers=0)

    present = jobs.pool.link.present
    assert all(present() for _ in range(10_000_000))


def test_retiring_a_worker_gives_its_job_back_and_brings_another_one(jobs):
    worker = jobs.worker()

    jobs.pool.retire(worker)

    wait_until(lambda: jobs.batch.processes["1"][1].poll() is not None, WITHIN_S)
    assert [*wait_until(jobs.pool.idle_workers, WITHIN_S)] != [worker]
