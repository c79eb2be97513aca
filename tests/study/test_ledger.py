"""What is asked of, told to and stored in a study's database, and who can read it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import psycopg
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from storage.database import schema
from storage.database.calls import StalledError
from storage.database.endpoint import is_transient, open_storage, parse_public_url
from storage.database.lease import LeaseLostError
from storage.protocol.attempts import AttemptEnd, Failure
from storage.protocol.records import EpochMetrics, Outcome, TrialResult
from study.ledger import PATIENCE_S, DatabaseLostError, Ledger
from study.objectives import Objective
from study.search_space import SearchSpace
from study.transitions import Tell
from tests.storage.protocol.example_records import METRICS
from tests.study.fakes import DirectCalls, FakeClock, HeldLease

SPACE = SearchSpace.model_validate({"optimizer": {"lr": {"type": "float", "low": 0.0, "high": 1.0}}})
EPOCH = replace(METRICS, epoch=0, train_loss=0.7, val_loss=0.8, f1_micro=0.5, f1_macro=0.4)
COMPLETED = Tell(TrialState.COMPLETE, 0.5, "completed")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@dataclass
class Books:
    """A ledger, and what it says."""

    storage: RDBStorage
    clock: FakeClock = field(default_factory=FakeClock)
    notices: list[str] = field(default_factory=list)
    is_hurried: bool = False
    lease: object = field(default_factory=HeldLease)
    calls: object = field(default_factory=DirectCalls)

    def __post_init__(self) -> None:
        names = optuna.get_all_study_names(self.storage)
        if "s" not in names:
            optuna.create_study(storage=self.storage, study_name="s", direction="maximize")
        self.study = optuna.load_study(storage=self.storage, study_name="s")
        self.ledger = Ledger(
            self.study,
            self.storage,
            SPACE,
            (Objective("f1_micro"),),
            None,
            self.calls,
            self.lease,
            self.clock,
            self.notices.append,
            lambda: self.is_hurried,
            self.clock.pause,
        )


@pytest.fixture
def books(url: str) -> Books:
    return Books(open_storage(parse_public_url(url, "")))


def ended(*epochs: EpochMetrics) -> AttemptEnd:
    return AttemptEnd(TrialResult(Outcome.COMPLETED, len(epochs), epochs=epochs), wall_s=10.0, epochs=epochs)


def test_a_new_trial_is_sampled_and_found_again_by_the_next_driver(books):
    trial = books.ledger.next_trial(known=(), total=3)

    again = Books(books.storage).ledger.next_trial(known=(), total=3)
    assert (again.number, again.parameters) == (trial.number, trial.parameters)
    assert set(trial.parameters) == {"lr"}


def test_a_trial_that_is_known_is_not_given_again_and_no_more_are_made_than_asked_for(books):
    found = [books.ledger.next_trial(known=range(n), total=2) for n in range(3)]

    assert [None if trial is None else trial.number for trial in found] == [0, 1, None]
    assert len(books.study.trials) == 2


def test_a_trial_that_a_person_has_put_in_the_queue_is_taken_first_and_does_not_count_as_begun(books):
    books.study.enqueue_trial({"lr": 0.25})
    assert books.ledger.counts() == (0, 0)

    assert books.ledger.next_trial(known=(), total=1).parameters == {"lr": 0.25}


def test_a_trial_whose_making_was_answered_by_an_error_is_not_made_twice(books, monkeypatch):
    ask, asked = books.study.ask, []

    def commit_and_fail():
        trial = ask()
        asked.append(trial.number)
        if len(asked) == 1:
            raise StorageInternalError("the connection broke")
        return trial

    monkeypatch.setattr(books.study, "ask", commit_and_fail)

    assert books.ledger.next_trial(known=(), total=5).number == 0
    assert (asked, len(books.study.trials)) == ([0], 1)


def test_what_was_stored_of_a_trial_comes_back_to_the_next_driver(books):
    crash = AttemptEnd(None, Failure.CRASHED, "Segmentation fault", 139, 7.5)
    books.ledger.next_trial(known=(), total=1)
    books.ledger.record_spec(0, "abc")
    books.ledger.forgive(0, [crash])

    row = books.ledger.next_trial(known=(), total=1)

    assert (row.spec_sha256, row.forgiven) == ("abc", 1)
    assert row.attempts == (schema.AttemptRow("crashed", 139, 7.5, "Segmentation fault", nodes=1),)


def test_an_epoch_that_a_later_attempt_trained_again_replaces_the_earlier_one(books):
    books.study.ask()

    books.ledger.record_epoch(0, EPOCH)
    books.ledger.record_epoch(0, replace(EPOCH, f1_micro=0.6))

    assert books.study.trials[0].intermediate_values == {0: 0.6}


def test_epochs_whose_news_was_lost_are_stored_at_the_end(books):
    books.study.ask()
    epochs = [replace(EPOCH, epoch=epoch, f1_micro=epoch / 10) for epoch in range(4)]
    books.ledger.record_epoch(0, epochs[0])
    books.ledger.record_epoch(0, replace(epochs[2], f1_micro=0.9))

    books.ledger.finish(0, COMPLETED, [ended(*epochs)])

    assert books.study.trials[0].intermediate_values == {0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3}


def test_telling_a_trial_twice_is_telling_it_once(books):
    books.study.ask()

    for _ in range(2):
        books.ledger.finish(0, COMPLETED, [ended(EPOCH)])

    [trial] = books.study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)


def test_stock_optuna_reads_all_of_a_trial(books, url):
    books.ledger.next_trial(known=(), total=1)
    books.ledger.finish(0, COMPLETED, [replace(ended(EPOCH), nodes=4)])

    [read] = optuna.load_study(storage=url, study_name="s").trials

    assert (read.state, read.value, read.intermediate_values) == (TrialState.COMPLETE, 0.5, {0: 0.5})
    assert read.user_attrs["outcome"] == "completed"
    assert read.user_attrs["node_hours"] == round(10 * 4 / 3600, 6)


def test_a_trial_that_a_person_has_ended_in_the_dashboard_stays_ended_and_the_driver_goes_on(books, url):
    books.study.ask()
    optuna.load_study(storage=url, study_name="s").tell(0, state=TrialState.FAIL)

    books.ledger.record_epoch(0, EPOCH)
    books.ledger.finish(0, COMPLETED, [ended(EPOCH)])

    [trial] = books.study.trials
    assert (trial.state, trial.intermediate_values) == (TrialState.FAIL, {})


def test_a_driver_that_has_lost_the_study_writes_nothing(books):
    class LostLease:
        def require(self) -> None:
            raise LeaseLostError("taken over by process 7 on login2")

    books.study.ask()
    other = Books(books.storage, lease=LostLease())

    for write in (
        lambda: other.ledger.record_epoch(0, EPOCH),
        lambda: other.ledger.finish(0, COMPLETED, [ended(EPOCH)]),
        lambda: other.ledger.next_trial(known=[0], total=5),
    ):
        with pytest.raises(LeaseLostError):
            write()
    [trial] = books.study.trials
    assert (trial.state, trial.intermediate_values) == (TrialState.RUNNING, {})


# A database that is away.


def database_error(path: Path, statement: str) -> Exception:
    """What Optuna raises when SQLite refuses a statement."""
    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 0}})
    study = optuna.create_study(storage=storage)
    with sqlite3.connect(path) as other:
        other.execute(statement)
        with pytest.raises(StorageInternalError) as raised:
            study.ask()
    return raised.value


@pytest.fixture
def locked(tmp_path) -> Exception:
    return database_error(tmp_path / "locked.db", "begin exclusive")


@pytest.fixture
def refusal(tmp_path) -> Exception:
    return database_error(tmp_path / "refusing.db", "drop table trials")


def failing(error: Exception, times: float = float("inf")) -> Callable[[], str]:
    """An action that fails so many times."""
    tries: list[None] = []

    def act() -> str:
        tries.append(None)
        if len(tries) <= times:
            raise error
        return "here"

    return act


def test_another_readers_lock_is_transient(locked):
    assert is_transient(locked)


def test_a_database_that_has_lost_its_tables_will_not_come_back_by_waiting(refusal):
    assert not is_transient(refusal)


def test_a_bug_is_no_transient_error_of_the_database():
    assert not is_transient(KeyError("a"))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction"), True),
        (psycopg.errors.SerializationFailure("could not serialize access"), True),
        (psycopg.errors.UniqueViolation("duplicate key"), False),
    ],
)
def test_a_failover_is_transient_and_a_refusal_is_not(error, is_one):
    wrapped = sqlalchemy.exc.DBAPIError.instance("update", {}, error, psycopg.Error)

    assert is_transient(wrapped) is is_one


def test_a_database_that_is_away_for_a_while_is_waited_for_and_a_person_is_told_once(books, locked):
    assert books.ledger.with_retries(failing(locked, times=2)) == "here"

    assert len(books.notices) == 1
    assert "database is locked" in books.notices[0]


def test_a_person_is_told_again_when_it_is_away_again(books, locked):
    for _ in range(2):
        books.ledger.with_retries(failing(locked, times=2))

    assert len(books.notices) == 2


def test_a_database_that_refuses_is_not_waited_for(books, refusal):
    before_s = books.clock.now_s

    with pytest.raises(DatabaseLostError, match="no such table: trials"):
        books.ledger.with_retries(failing(refusal))
    assert books.clock.now_s == before_s


def test_a_database_that_stays_away_is_given_up_after_a_quarter_of_an_hour_with_what_to_do(books, locked):
    before_s = books.clock.now_s

    with pytest.raises(DatabaseLostError, match=r"did not answer for 15 minutes.*run the same command to go on"):
        books.ledger.with_retries(failing(locked))
    assert PATIENCE_S <= books.clock.now_s - before_s <= PATIENCE_S + 20


def test_a_person_who_wants_an_end_waits_for_the_database_for_seconds_only(books, locked):
    before_s = books.clock.now_s
    books.is_hurried = True

    with pytest.raises(DatabaseLostError, match=r"when the driver was asked to stop: database is locked"):
        books.ledger.with_retries(failing(locked))
    assert books.clock.now_s - before_s < 10


@dataclass
class StallingCalls:
    """A server that has been stopped: it takes the question and says nothing."""

    clock: FakeClock
    waited_s: float = 0.0

    def call(self, action: Callable[[], object], is_over: Callable[[float], bool]) -> object:
        while not is_over(self.waited_s):
            self.clock.pause(1.0)
            self.waited_s += 1.0
        raise StalledError(f"it has not answered for {self.waited_s:.0f} s")


def test_a_database_that_takes_the_question_and_does_not_answer_is_told_and_given_up_too(books):
    clock = FakeClock()
    stalled = Books(books.storage, clock=clock, calls=StallingCalls(clock))

    with pytest.raises(DatabaseLostError, match="did not answer for 15 minutes: it has not answered for 900 s"):
        stalled.ledger.trials()
    assert stalled.notices == ["The database does not answer, so its news waits; the trials train on."]


def test_a_person_who_wants_an_end_does_not_wait_for_such_a_database_either(books):
    clock = FakeClock()
    stalled = Books(books.storage, clock=clock, calls=StallingCalls(clock), is_hurried=True)

    with pytest.raises(DatabaseLostError, match="when the driver was asked to stop"):
        stalled.ledger.trials()
    assert stalled.calls.waited_s < 5
