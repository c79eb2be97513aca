"""Which jobs there should be: every rule by itself, with no clock and no batch system."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from cluster.batch_system import JobState, QueuedJob
from cluster.reconcile import (
    Action,
    Cancel,
    GiveUp,
    Jobs,
    Limits,
    Notice,
    NoticeWaiting,
    QueueAnswer,
    Release,
    Submit,
    Trouble,
    reconcile,
    refused,
    retire,
    submitted,
    time_left_s,
    unanswered,
)

LIMITS = Limits(pending_notice_s=100.0)
NODES = 4


class Pool:
    """The jobs of a pool, and time that the test lets pass."""

    def __init__(self) -> None:
        self.jobs = Jobs("s-")
        self.now_s = 1000.0
        self.wanted = 0
        self.wanted_besides: dict[int, int] = {}
        """By their nodes, which are others."""
        self.runners: set[str] = set()
        self.queue: dict[str, QueuedJob] = {}
        self.done: list[Action] = []

    def pass_time(self, seconds: float, asks_queue: bool = True, step_s: float = 1.0) -> list[Action]:
        """What is decided meanwhile, looking every second."""
        decided: list[Action] = []
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += step_s
            answer = QueueAnswer(self.now_s, tuple(self.queue.values())) if asks_queue else None
            wanted = {NODES: self.wanted, **self.wanted_besides}
            self.jobs, actions = reconcile(self.jobs, answer, frozenset(self.runners), wanted, self.now_s, LIMITS)
            decided += actions
            for action in actions:
                if isinstance(action, Submit):
                    self.take(action.name)
        return decided

    def take(self, name: str) -> None:
        """The batch system takes a job."""
        job_id = str(100 + int(name.rpartition("-")[2]))
        self.jobs = submitted(self.jobs, name, job_id, self.now_s)
        self.tell(name, JobState.PENDING, "PENDING (Priority)")

    def tell(self, name: str, state: JobState, words: str, nodes: int = 4) -> None:
        job_id = str(100 + int(name.rpartition("-")[2]))
        self.queue[name] = QueuedJob(job_id, name, state, words, nodes, 3600.0)

    def with_runner(self, wanted: int = 1) -> Pool:
        """As many jobs as wanted run, each with its runner."""
        self.wanted = wanted
        self.pass_time(1)
        for job in self.jobs.jobs:
            self.tell(job.name, JobState.RUNNING, "RUNNING")
            self.runners.add(job.name)
        self.pass_time(1)
        return self


@pytest.fixture
def pool() -> Pool:
    return Pool()


def of(kind: type, actions: list[Action]) -> list:
    return [action for action in actions if isinstance(action, kind)]


def test_as_many_jobs_are_submitted_as_are_wanted_and_no_more(pool):
    pool.wanted = 3

    actions = pool.pass_time(30)

    assert actions == [Submit("s-0", NODES), Submit("s-1", NODES), Submit("s-2", NODES)]


def test_a_surplus_job_that_still_waits_is_cancelled_newest_first(pool):
    pool.wanted = 3
    pool.pass_time(2)
    pool.wanted = 1

    actions = pool.pass_time(3)

    assert sorted(action.job_ids for action in of(Cancel, actions)) == [("101",), ("102",)]
    assert [job.name for job in pool.jobs.jobs if not job.is_ending] == ["s-0"]


def test_a_job_that_has_a_runner_is_not_surplus(pool):
    pool.with_runner(2)
    pool.wanted = 0

    assert pool.pass_time(30) == []


def test_jobs_of_another_shape_are_submitted_beside_those_that_are_there(pool):
    pool.with_runner(1)
    pool.wanted_besides = {8: 2}

    assert pool.pass_time(30) == [Submit("s-1", 8), Submit("s-2", 8)]


def test_a_job_that_waits_is_cancelled_when_only_jobs_of_another_shape_are_wanted(pool):
    pool.wanted = 1
    pool.pass_time(2)
    pool.wanted, pool.wanted_besides = 0, {8: 1}

    actions = pool.pass_time(3)

    assert [*of(Cancel, actions), *of(Submit, actions)] == [Cancel(("100",)), Submit("s-1", 8)]


def test_no_name_is_ever_given_twice(pool):
    pool.wanted = 1
    actions = pool.pass_time(2)
    for _ in range(5):
        for job in pool.jobs.jobs:
            pool.jobs = retire(pool.jobs, job.name, "given back", pool.now_s)
        pool.queue.clear()
        actions += pool.pass_time(3)

    names = [action.name for action in of(Submit, actions)]
    assert len(names) == len(set(names)) == 6


def test_a_job_that_one_answer_misses_is_kept(pool):
    pool.with_runner()
    pool.runners.clear()
    told = dict(pool.queue)
    pool.queue.clear()
    pool.pass_time(1)
    pool.queue, pool.runners = told, {"s-0"}

    assert pool.pass_time(60) == []
    assert [job.name for job in pool.jobs.jobs] == ["s-0"]


def test_a_job_that_two_answers_miss_and_whose_runner_is_gone_is_released_and_replaced(pool):
    pool.with_runner()
    pool.runners.clear()
    pool.queue.clear()

    actions = pool.pass_time(5)

    assert of(Release, actions) == [Release("s-0", "job 100 is over: no longer in the queue")]
    assert of(Submit, actions) == [Submit("s-1", NODES)]


def test_a_job_that_the_queue_misses_lives_on_as_long_as_its_runner_is_there(pool):
    pool.with_runner()
    pool.queue.clear()

    assert of(Release, pool.pass_time(LIMITS.fence_s - 5)) == []


def test_how_a_job_ended_says_why_its_trial_was_interrupted(pool):
    pool.with_runner()
    pool.runners.clear()
    pool.tell("s-0", JobState.ENDED, "NODE_FAIL (NodeDown)")

    assert of(Release, pool.pass_time(3)) == [Release("s-0", "job 100 is over: NODE_FAIL (NodeDown)")]


def test_a_job_whose_runner_is_gone_is_cancelled_and_released_only_when_it_has_ended(pool):
    pool.with_runner()
    pool.runners.clear()

    actions = pool.pass_time(LIMITS.runner_gone_s + 5)
    assert of(Cancel, actions)[0] == Cancel(("100",))
    assert of(Release, actions) == []

    pool.tell("s-0", JobState.ENDING, "COMPLETING")
    assert of(Release, pool.pass_time(10)) == []
    pool.tell("s-0", JobState.ENDED, "CANCELLED")
    assert of(Release, pool.pass_time(2)) == [Release("s-0", "its runner is gone, while job 100 is RUNNING")]


def test_a_job_that_never_confirms_its_end_is_released_after_the_fencing_time_with_a_word(pool):
    pool.with_runner()
    pool.runners.clear()

    actions = pool.pass_time(LIMITS.runner_gone_s + LIMITS.fence_s + 3)

    [release] = of(Release, actions)
    assert release.unconfirmed_id == "100"
    assert "job 100 has not confirmed its end after 60 s (RUNNING)" in of(Notice, actions)[0].text
    # Cancelled again and again meanwhile.
    assert len(of(Cancel, actions)) >= 5


def test_while_the_batch_system_is_silent_nothing_is_given_up_but_by_the_fencing_time(pool):
    pool.with_runner()
    pool.runners.clear()

    early = pool.pass_time(LIMITS.runner_gone_s + LIMITS.fence_s - 5, asks_queue=False)

    assert of(Release, early) == []
    assert len(of(Release, pool.pass_time(10, asks_queue=False))) == 1


def test_a_runner_that_seems_to_be_gone_for_a_moment_is_none_that_is_lost(pool):
    pool.with_runner()
    pool.runners.clear()
    pool.pass_time(2)
    pool.runners.add("s-0")

    assert pool.pass_time(100) == []


def test_jobs_that_nobody_knows_are_cancelled_and_told_once(pool):
    pool.tell("s-77", JobState.RUNNING, "RUNNING")

    actions = pool.pass_time(5)

    assert of(Cancel, actions) == [Cancel(("177",))] * 5
    assert of(Notice, actions) == [Notice("cancelled what was left in the queue: job 177")]


def test_a_submission_that_was_not_answered_is_found_in_the_queue(pool):
    pool.wanted = 1
    pool.jobs, actions = reconcile(pool.jobs, None, frozenset(), {NODES: 1}, pool.now_s, LIMITS)
    [submit] = of(Submit, actions)
    pool.jobs, notices = unanswered(pool.jobs, submit.name, "sbatch has not answered for 30 s", pool.now_s, LIMITS)
    assert "no further job is submitted for 10 s" in of(Notice, notices)[0].text
    pool.tell(submit.name, JobState.PENDING, "PENDING (Priority)")

    assert of(Submit, pool.pass_time(60)) == []
    assert [job.job_id for job in pool.jobs.jobs] == ["100"]


def test_a_job_that_one_answer_leaves_out_while_it_ends_is_not_believed_to_be_over(pool):
    pool.with_runner()
    pool.runners.clear()
    pool.jobs = retire(pool.jobs, "s-0", "its runner hangs", pool.now_s)
    left_out = QueueAnswer(pool.now_s + 1, ())

    pool.jobs, actions = reconcile(pool.jobs, left_out, frozenset(), {NODES: 0}, pool.now_s + 1, LIMITS)

    assert of(Release, actions) == []
    pool.now_s += 1
    pool.queue.clear()
    assert of(Release, pool.pass_time(3)) == [Release("s-0", "its runner hangs")]


def test_a_submission_that_was_neither_answered_nor_taken_is_repeated(pool):
    pool.wanted = 1
    pool.jobs, _ = reconcile(pool.jobs, None, frozenset(), {NODES: 1}, pool.now_s, LIMITS)
    pool.jobs, _ = unanswered(pool.jobs, "s-0", "sbatch has not answered for 30 s", pool.now_s, LIMITS)

    assert of(Submit, pool.pass_time(LIMITS.first_pause_s - 2)) == []
    assert of(Submit, pool.pass_time(5)) == [Submit("s-1", NODES)]


def test_refusals_that_pass_are_retried_with_growing_pauses(pool):
    pool.wanted, submissions = 1, []
    for _ in range(2000):
        pool.now_s += 1
        pool.jobs, actions = reconcile(pool.jobs, None, frozenset(), {NODES: 1}, pool.now_s, LIMITS)
        for submit in of(Submit, actions):
            submissions.append(pool.now_s)
            pool.jobs, said = refused(pool.jobs, submit.name, "job submit limit", True, pool.now_s, LIMITS)
            assert of(GiveUp, said) == []

    pauses = [later - earlier for earlier, later in pairwise(submissions)]
    assert pauses[:6] == [10, 20, 40, 80, 160, 320]
    assert set(pauses[6:]) == {600}


def test_a_refusal_that_does_not_pass_ends_the_study_if_it_is_the_first_answer(pool):
    pool.jobs, _ = reconcile(pool.jobs, None, frozenset(), {NODES: 1}, pool.now_s, LIMITS)

    _, said = refused(pool.jobs, "s-0", "Invalid account", False, pool.now_s, LIMITS)

    assert of(GiveUp, said) == [GiveUp(Trouble.REFUSED, "the batch system refuses this study's jobs: Invalid account")]


def test_the_same_refusal_later_is_told_and_retried(pool):
    pool.with_runner()
    pool.wanted = 2
    pool.jobs, actions = reconcile(pool.jobs, None, frozenset(pool.runners), {NODES: 2}, pool.now_s, LIMITS)
    [submit] = of(Submit, actions)

    _, said = refused(pool.jobs, submit.name, "Invalid account", False, pool.now_s, LIMITS)

    assert [type(action) for action in said] == [Notice]


def end_before_the_runner_comes(pool: Pool) -> list[Action]:
    actions = pool.pass_time(1)
    for job in pool.jobs.jobs:
        if not job.had_runner and not job.is_ending:
            pool.tell(job.name, JobState.ENDED, "FAILED (NonZeroExitCode)")
    return [*actions, *pool.pass_time(2)]


def test_jobs_that_end_before_their_runner_comes_end_the_study_if_no_runner_ever_came(pool):
    pool.wanted = 1
    actions: list[Action] = []
    while not of(GiveUp, actions):
        actions += end_before_the_runner_comes(pool)
        pool.pass_time(LIMITS.longest_pause_s, asks_queue=False, step_s=20)
        assert pool.now_s < 10_000

    [given_up] = of(GiveUp, actions)
    assert given_up.reason == "3 jobs in a row ended before their runner could reach the driver"
    assert given_up.log_of is not None


def test_beside_a_runner_that_works_such_jobs_follow_ever_more_slowly_and_are_told(pool):
    pool.with_runner()
    pool.wanted = 2
    submissions, actions = [], []
    for _ in range(900):
        decided = pool.pass_time(1)
        actions += decided
        submissions += [pool.now_s for _ in of(Submit, decided)]
        for job in pool.jobs.jobs:
            if not job.had_runner and not job.is_ending:
                pool.tell(job.name, JobState.ENDED, "FAILED (NonZeroExitCode)")

    pauses = [later - earlier for earlier, later in pairwise(submissions)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]
    assert "ended before its runner came (FAILED (NonZeroExitCode))" in of(Notice, actions)[0].text
    assert of(GiveUp, actions) == []


def test_a_job_of_another_shape_ends_the_study(pool):
    pool.wanted = 1
    pool.pass_time(1)
    pool.tell("s-0", JobState.RUNNING, "RUNNING", nodes=2)

    [given_up] = of(GiveUp, pool.pass_time(1))
    assert "job 100 was given 2 nodes, but a trial is laid out for 4" in given_up.reason


def test_a_job_that_waits_long_is_told_and_again_at_each_doubling(pool):
    pool.wanted = 1

    actions = pool.pass_time(900, step_s=5)

    told = of(NoticeWaiting, actions)
    assert len(told) == 4
    assert "job 100 has been waiting in the queue for 1" in told[0].text
    assert "PENDING (Priority)" in told[0].text


def test_a_job_that_runs_without_its_runner_is_told_too(pool):
    pool.wanted = 1
    pool.pass_time(1)
    pool.tell("s-0", JobState.RUNNING, "RUNNING")

    assert "has been started, but its runner has not arrived" in of(Notice, pool.pass_time(150))[0].text


def test_the_walltime_left_is_that_of_the_last_answer_less_the_time_since(pool):
    pool.with_runner()
    pool.pass_time(100, asks_queue=False)

    assert time_left_s(pool.jobs.jobs[0], pool.now_s) == 3500.0


@pytest.mark.parametrize("change", [lambda pool: pool.runners.clear(), lambda pool: pool.queue.clear()])
def test_deciding_twice_about_the_same_is_deciding_once(pool: Pool, change: Callable[[Pool], object]):
    pool.with_runner(2)
    change(pool)
    answer = QueueAnswer(pool.now_s + 1, tuple(pool.queue.values()))
    arguments = (answer, frozenset(pool.runners), {NODES: 2}, pool.now_s + 1, LIMITS)

    assert reconcile(pool.jobs, *arguments) == reconcile(pool.jobs, *arguments)


def test_a_job_that_was_taken_twice_is_kept_once(pool):
    pool.with_runner()
    pool.queue["twin"] = QueuedJob("999", "s-0", JobState.RUNNING, "RUNNING", 4, 3600.0)

    actions = pool.pass_time(2)

    assert of(Cancel, actions)[0] == Cancel(("999",))
    assert [job.job_id for job in pool.jobs.jobs if not job.is_ending] == ["100"]
