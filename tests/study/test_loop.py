"""The loop by itself: a real ledger and real files, workers that do as the test says, and a clock that it turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from cluster.pool import PoolError
from storage.database import schema
from storage.database.endpoint import open_storage, parse_public_url
from storage.database.lease import LeaseLostError
from storage.protocol.attempts import AttemptEnd, AttemptRequest, EndRecord, Failure
from storage.protocol.codec import from_json
from storage.protocol.records import EpochMetrics, Outcome, TrialResult
from storage.protocol.trial_dir import AttemptDir, TrialDir
from study.ledger import DatabaseLostError, Ledger
from study.loop import StudyHaltedError, StudyLoop
from study.opening import bind_folder, open_study, retry_failed
from study.samplers import RandomByTrialNumber
from tests.storage.protocol.example_records import METRICS, REPORT
from tests.study.fakes import DirectCalls, FakeClock, FakePool, FakeStop, FakeView, HeldLease, new_plan

EPOCHS = 2
MAX_STEPS = 2000


def epoch(number: int, value: float = 0.5) -> EpochMetrics:
    return replace(METRICS, epoch=number, f1_micro=value, train_loss=0.1, val_loss=0.1, wall_s=1.0)


@dataclass
class Study:
    """A study in a folder, driven again and again."""

    folder: Path
    overrides: tuple[str, ...] = ()
    clock: FakeClock = field(default_factory=FakeClock)
    view: FakeView = field(default_factory=FakeView)
    stop: FakeStop = field(default_factory=FakeStop)
    lease: object = field(default_factory=HeldLease)
    adopt: bool = False

    def __post_init__(self) -> None:
        self.pool = FakePool(self.clock)
        self.plan = new_plan(self.folder, *self.overrides)
        self.storage = open_storage(parse_public_url(f"sqlite:///{self.folder / 'study.db'}", ""))

    def new_loop(self) -> StudyLoop:
        """As a new driver has it."""
        study = self.open()
        uuid = bind_folder(study, self.plan.folder, None, self.adopt, self.view.notice)
        settings = self.plan.config.study
        ledger = Ledger(
            study,
            self.storage,
            self.plan.config.search_space,
            settings.goals,
            settings.limit,
            DirectCalls(),
            self.lease,
            self.clock,
            self.view.notice,
            self.stop.is_requested,
            self.clock.pause,
        )
        self.ledger = ledger
        return StudyLoop(self.plan, uuid, ledger, self.pool, self.view, self.stop, self.clock)

    def open(self) -> optuna.Study:
        return open_study(self.storage, self.plan, RandomByTrialNumber(self.plan.config.study.seed))

    def run(self) -> None:
        """A driver, to its end."""
        self.finish(self.new_loop())

    def finish(self, loop: StudyLoop) -> None:
        for _ in range(MAX_STEPS):
            if loop.step(0.5):
                return
        raise AssertionError(f"the loop has not ended after {MAX_STEPS} steps: {self.view.said}")

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.open().trials

    def each_attempt(self, does: Callable[[AttemptRequest, AttemptDir], AttemptEnd | None]) -> None:
        """What an attempt does as soon as it is started; None lets it run on."""

        def on_start(request: AttemptRequest) -> None:
            end = does(request, TrialDir(request.trial_dir).attempt(request.attempt_number))
            if end is not None:
                self.pool.tell_end(request, end)

        self.pool.on_start = on_start


def completes(request: AttemptRequest, attempt: AttemptDir) -> AttemptEnd:
    epochs = tuple(epoch(n, 0.5 + request.trial_number / 10) for n in range(EPOCHS))
    result = TrialResult(Outcome.COMPLETED, EPOCHS, epochs=epochs, spec_sha256=attempt.trial.spec_sha256())
    attempt.write_result(result)
    return AttemptEnd(result, wall_s=10.0, epochs=epochs, communicator=REPORT)


def fails(failure: Failure, reason: str = "why") -> Callable[[AttemptRequest, AttemptDir], AttemptEnd]:
    return lambda request, attempt: AttemptEnd(None, failure, reason, 1, 5.0)


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


def test_a_study_ends_with_the_trials_that_were_asked_for(study):
    study.each_attempt(completes)

    study.run()

    assert [(trial.state, trial.value) for trial in study.trials] == [
        (TrialState.COMPLETE, pytest.approx(0.5 + n / 10)) for n in range(3)
    ]


def test_the_request_that_is_sent_is_in_the_attempts_folder(study):
    study.each_attempt(completes)

    study.run()

    sent = study.pool.started[0]
    assert from_json(AttemptRequest, (sent.trial_dir / "attempt-01" / "request.json").read_text()) == sent
    assert sent == study.plan.request(0, 1, float("inf"))


def test_each_trial_is_tied_to_the_specification_that_its_ranks_read(study):
    study.each_attempt(completes)

    study.run()

    for trial in study.trials:
        directory = TrialDir(study.plan.trial_path(trial.number))
        assert trial.user_attrs[schema.SPEC_SHA256] == directory.spec_sha256()
        assert directory.read_spec().optimizer.options["learning_rate"] == trial.params["learning_rate"]
        assert directory.read_spec().study_uuid == study.open().user_attrs[schema.STUDY_UUID]


def test_a_result_of_another_specification_is_not_believed(study):
    def completes_something_else(request: AttemptRequest, attempt: AttemptDir) -> AttemptEnd:
        end = completes(request, attempt)
        return replace(end, result=replace(end.result, spec_sha256="f" * 64))

    ends = iter([completes_something_else, completes, completes, completes])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))

    study.run()

    assert "its ranks trained specification ffffffffffff" in "\n".join(study.view.said)
    assert study.trials[0].user_attrs["attempt_count"] == 2


def test_an_interrupted_attempt_is_followed_by_another_one(study):
    ends = iter([fails(Failure.INTERRUPTED, "job 7 is over: NODE_FAIL"), completes, completes, completes])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))

    study.run()

    assert "trial 0 waits: interrupted: job 7 is over: NODE_FAIL" in study.view.said
    first = schema.read_attempts(study.trials[0].user_attrs)[0]
    assert (first.end, first.reason) == ("interrupted", "job 7 is over: NODE_FAIL")


# Failures of the surroundings.


def test_a_failed_trial_between_others_is_told(study):
    ends = iter([completes, fails(Failure.BAD_SPEC, "width=0"), completes])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))

    study.run()

    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].user_attrs["reason"] == "width=0"


def test_a_trial_that_fails_last_is_told_when_nothing_is_left_to_run(study):
    ends = iter([completes, completes, fails(Failure.BAD_SPEC)])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))

    study.run()

    assert study.trials[2].state is TrialState.FAIL


def test_three_trials_that_fail_alike_halt_the_study_untold_and_the_same_command_tries_them_again(tmp_path):
    study = Study(tmp_path, ("study.trials=5", "study.crash_retries=0"))
    study.each_attempt(lambda r, a: fails(Failure.CRASHED, f"OSError: '/data/{r.trial_number}.png' is broken")(r, a))

    with pytest.raises(StudyHaltedError, match=r"trials 0, 1, 2 failed alike.*They are not told.*same command"):
        study.run()
    assert {trial.state for trial in study.trials} == {TrialState.RUNNING}

    study.each_attempt(completes)
    study.run()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
    assert [trial.user_attrs["attempt_count"] for trial in study.trials] == [2, 2, 2, 1, 1]


def test_trials_that_fail_in_different_ways_are_told(tmp_path):
    study = Study(tmp_path, ("study.trials=4", "study.crash_retries=0"))
    words = iter(["ValueError: a", "KeyError: b", "TypeError: c", "IndexError: d"])
    study.each_attempt(lambda request, attempt: fails(Failure.CRASHED, next(words))(request, attempt))

    study.run()

    assert {trial.state for trial in study.trials} == {TrialState.FAIL}


def test_failed_trials_run_again_on_request_with_their_numbers_and_parameters(study):
    ends = iter([completes, fails(Failure.BAD_SPEC), completes, completes])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))
    study.run()
    before = study.trials[1].params

    assert retry_failed(study.storage, study.open()) == [1]
    study.run()

    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert study.trials[1].params == before
    assert study.pool.started[-1].key == "1/2"


def test_an_allocation_that_cannot_run_ranks_is_given_back_at_once_and_the_trial_tried_elsewhere(study):
    unusable = fails(Failure.UNUSABLE_ALLOCATION, "rank 3 on node2 has no GPU of its own")
    ends = iter([unusable, completes, completes, completes])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))

    study.run()

    assert study.pool.retired == ["w0"]
    assert study.trials[0].state is TrialState.COMPLETE


@pytest.mark.parametrize("failure", [Failure.UNUSABLE_ALLOCATION, Failure.NOT_LAUNCHED])
def test_a_site_at_which_no_allocation_can_run_ranks_halts_the_study_and_fails_no_trial(study, failure):
    study.each_attempt(fails(failure, "no such plugin"))

    with pytest.raises(StudyHaltedError, match=r"3 times in a row: no such plugin.*same command to go on"):
        study.run()

    assert {trial.state for trial in study.trials} == {TrialState.RUNNING}
    study.each_attempt(completes)
    study.run()
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_two_failures_in_a_row_of_whatever_kind_give_an_allocation_back(study):
    ends = iter([fails(Failure.CRASHED), fails(Failure.INTERRUPTED), completes, completes, completes])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))

    study.run()

    assert study.pool.retired == ["w0"]


def test_one_failure_between_ends_that_are_well_costs_no_allocation(study):
    ends = iter([fails(Failure.CRASHED), completes, fails(Failure.CRASHED), completes, completes])
    study.each_attempt(lambda request, attempt: next(ends)(request, attempt))

    study.run()

    assert study.pool.retired == []


def test_a_full_disk_halts_the_study_and_the_same_command_goes_on(study):
    study.each_attempt(lambda request, attempt: attempt_on_full_disk(attempt))

    with pytest.raises(StudyHaltedError, match="No space left on device"):
        study.run()

    study.each_attempt(completes)
    study.run()
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def attempt_on_full_disk(attempt: AttemptDir) -> AttemptEnd:
    attempt.write_end(EndRecord(Failure.DISK_FULL, "No space left", 5, 1.0))
    return attempt.end(Failure.DISK_FULL, "No space left")


# Ends of the driver.


def test_a_stop_says_at_once_what_it_does_and_what_a_second_one_does(study):
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)

    study.stop.requests = 1
    loop.step(0.0)

    [notice] = [line for line in study.view.said if line.startswith("note: ")]
    assert "SIGINT: the trials under way save a checkpoint and pause" in notice
    assert "once more, and they end at once" in notice
    assert study.pool.stopped == [("0/1", Outcome.PAUSED)]


def test_a_stopped_study_waits_for_the_checkpoints_and_goes_on_later(study):
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)
    study.stop.requests = 1
    assert not loop.step(0.0)

    study.pool.tell_end(study.pool.started[0], AttemptEnd(TrialResult(Outcome.PAUSED, 1), wall_s=5.0))
    study.finish(loop)

    assert study.trials[0].state is TrialState.RUNNING
    assert len(study.trials) == 1
    study.stop.requests = 0
    study.each_attempt(completes)
    study.run()
    assert study.trials[0].user_attrs["attempt_count"] == 2


def test_a_stop_says_what_it_does_although_it_comes_while_the_database_is_silent(study, monkeypatch):
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)
    [request] = study.pool.started

    def is_silent_until_the_stop(*arguments):
        study.stop.requests = 1
        raise DatabaseLostError("database: it did not answer when the driver was asked to stop.")

    monkeypatch.setattr(loop._ledger, "record_epoch", is_silent_until_the_stop)
    study.pool.tell_epoch(request, METRICS)
    loop.step(0.0)

    said, why = (line for line in study.view.said if line.startswith("note: "))
    assert "SIGINT: the trials under way save a checkpoint and pause" in said
    assert "database: it did not answer" in why
    assert study.pool.stopped == [("0/1", Outcome.PAUSED)]


def test_a_second_stop_waits_for_nothing(study):
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)
    study.stop.requests = 1
    assert not loop.step(0.0)
    before_s = study.clock.now_s

    study.stop.requests = 2

    assert loop.step(0.0)
    assert study.clock.now_s == before_s
    assert study.pool.is_hurried


def test_a_trial_that_completes_while_it_is_asked_to_pause_is_told(study):
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)
    study.stop.requests = 1
    loop.step(0.0)
    [request] = study.pool.started

    study.pool.tell_end(request, completes(request, TrialDir(request.trial_dir).attempt(1)))
    study.finish(loop)

    assert study.trials[0].state is TrialState.COMPLETE


def test_ranks_that_never_pause_are_waited_for_no_longer_than_their_grace_time(study):
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)
    study.stop.requests = 1
    before_s = study.clock.now_s

    study.finish(loop)

    assert study.clock.now_s - before_s < study.plan.site.checkpoint_grace_s + 40


@pytest.mark.parametrize(
    "error",
    [
        DatabaseLostError("database: gone."),
        PoolError("sbatch refuses."),
        OSError(5, "Input/output error"),
        LeaseLostError("taken over."),
        ZeroDivisionError("a bug"),
    ],
)
def test_whatever_ends_the_study_the_trials_under_way_are_paused_first(tmp_path, error):
    study = Study(tmp_path)
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)
    study.pool.error = error

    loop.step(0.0)
    assert study.pool.stopped == [("0/1", Outcome.PAUSED)]
    study.pool.tell_end(study.pool.started[0], AttemptEnd(TrialResult(Outcome.PAUSED, 1), wall_s=5.0))

    with pytest.raises(type(error)) as raised:
        study.finish(loop)
    assert raised.value is error
    assert any("Pausing the trials under way" in line for line in study.view.said)


def test_ends_that_come_while_the_database_is_lost_are_found_in_the_files_by_the_next_driver(study, monkeypatch):
    study.each_attempt(lambda request, attempt: None)
    loop = study.new_loop()
    loop.step(0.0)

    def is_lost(*arguments: object) -> None:
        raise DatabaseLostError("database: gone.")

    [request] = study.pool.started
    with monkeypatch.context() as away:
        away.setattr(study.ledger, "with_retries", is_lost)
        study.pool.tell_epoch(request, epoch(0))
        loop.step(0.0)
        study.pool.tell_end(request, completes(request, TrialDir(request.trial_dir).attempt(1)))
        with pytest.raises(DatabaseLostError):
            study.finish(loop)

    study.each_attempt(completes)
    study.run()
    assert study.trials[0].user_attrs["attempt_count"] == 1
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3


# Drivers that died.


def test_a_trial_that_ended_without_a_driver_is_told_by_the_next_one_and_not_run_again(study):
    study.each_attempt(lambda request, attempt: completes(request, attempt) and None)
    study.new_loop().step(0.0)

    study.pool = FakePool(study.clock)
    study.each_attempt(completes)
    study.run()

    assert [request.key for request in study.pool.started] == ["1/1", "2/1"]
    assert study.trials[0].value == 0.5


def test_ranks_that_end_just_after_the_next_driver_came_are_not_run_again_either(study):
    study.each_attempt(lambda request, attempt: None)
    study.new_loop().step(0.0)
    [request] = study.pool.started
    study.pool = FakePool(study.clock, slots=0)
    loop = study.new_loop()
    loop.step(0.0)

    completes(request, TrialDir(request.trial_dir).attempt(1))
    study.pool.slots = 1
    study.each_attempt(completes)
    study.finish(loop)

    assert [request.key for request in study.pool.started] == ["1/1", "2/1"]
    assert study.trials[0].user_attrs["attempt_count"] == 1


def test_a_new_trial_whose_folder_holds_something_else_has_it_moved_aside(tmp_path):
    study = Study(tmp_path)
    uuid = study.new_loop()._study_uuid
    foreign = TrialDir(study.plan.trial_path(0))
    foreign.create(study.plan.spec(0, {"learning_rate": 0.123}, uuid))
    foreign_sha = foreign.spec_sha256()
    study.adopt = True
    study.each_attempt(completes)

    study.run()

    aside = TrialDir(study.plan.trial_path(0).with_name("0000.other-0"))
    assert aside.spec_sha256() == foreign_sha
    assert "note: trial 0: its folder held another specification; it is 0000.other-0 now" in study.view.said
    assert study.trials[0].user_attrs["attempt_count"] == 1


def test_an_adopted_folder_whose_trials_are_those_that_are_sampled_need_not_be_trained_again(tmp_path):
    study = Study(tmp_path)
    study.each_attempt(completes)
    study.run()
    (tmp_path / "study.db").unlink()

    again = Study(tmp_path, adopt=True)
    again.each_attempt(completes)
    again.run()

    assert again.pool.started == []
    assert [trial.state for trial in again.trials] == [TrialState.COMPLETE] * 3
    assert [trial.value for trial in again.trials] == pytest.approx([0.5, 0.6, 0.7])


def test_no_trial_starts_in_an_allocation_that_has_no_time_for_it(study):
    study.pool.time_left, study.pool.walltime_s = 1.0, 3600.0
    loop = study.new_loop()

    for _ in range(5):
        loop.step(0.5)

    assert study.pool.started == []
    assert set(study.pool.retired) == {"w0"}
