"""What a study's database holds, and who can read it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from cluster.attempt import AttemptEnd, EndKind
from storage.database.endpoint import may_pass, open_storage, parse_public_url
from storage.protocol.records import CommunicatorReport, EpochMetrics, Outcome, TrialResult
from study import ledger as ledger_module
from study.ledger import (
    IDENTITY_KEY,
    STUDY_DIR_KEY,
    DatabaseLostError,
    Ledger,
    StudyMismatchError,
    claim_study_dir,
    open_study,
    trial_attributes,
)
from study.transitions import Finish, Tell

IDENTITY = {"study": {"objective": "f1_micro", "seed": 7}, "search_space": {"lr": {"low": 0.001}}, "world_size": 2}

EPOCH = EpochMetrics(
    epoch=0,
    train_loss=0.7,
    val_loss=0.8,
    f1_micro=0.5,
    f1_macro=0.4,
    global_batch_size=16,
    learning_rate=0.1,
    updates=4,
    samples=64,
    samples_per_s=100.0,
    first_batch_s=0.1,
    wall_s=1.0,
)
COMMUNICATOR = CommunicatorReport(
    world_size=3,
    hosts=["node2", "node1", "node2"],
    data_plane="mpi",
    nccl_built=False,
    mpi_built=True,
    gloo_built=False,
    mpi_enabled=True,
    gloo_enabled=False,
    gpus=["", "", ""],
    threads_per_rank=1,
    versions={"horovod": "0.28.1"},
)
COMPLETED = Tell(Finish.COMPLETE, 0.5, "completed")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def storage(url: str) -> RDBStorage:
    return open_storage(parse_public_url(url, ""))


def open_as_driver(storage: RDBStorage, identity: dict = IDENTITY) -> optuna.Study:
    return open_study(storage, "s", lambda finished: optuna.samplers.RandomSampler(seed=finished), identity)


def new_ledger(storage: RDBStorage, notice: Callable[[str], None] = print) -> tuple[optuna.Study, Ledger]:
    study = open_as_driver(storage)
    return study, Ledger(study, storage, notice, Event())


def ended(*epochs: EpochMetrics, **changes) -> AttemptEnd:
    end = AttemptEnd(EndKind.ENDED, 0, 10.0, TrialResult(Outcome.COMPLETED, len(epochs)), epochs, COMMUNICATOR)
    return replace(end, **changes)


def test_a_study_is_created_with_what_it_searches_and_found_again(storage):
    created = open_as_driver(storage)

    assert created.user_attrs[IDENTITY_KEY] == IDENTITY
    assert created.direction.name == "MAXIMIZE"
    assert open_as_driver(storage).study_name == created.study_name


def test_a_resumed_study_gets_a_sampler_for_the_trials_that_it_has(storage):
    study = open_as_driver(storage)
    for _ in range(3):
        study.tell(study.ask(), 0.5)
    asked_for = []

    open_study(storage, "s", lambda trials: asked_for.append(trials) or optuna.samplers.RandomSampler(), IDENTITY)

    assert asked_for == [3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"world_size": 4}, "world_size is 2 in the database, 4 now"),
        ({"search_space": {"lr": {"low": 0.01}}}, "search_space.lr.low is 0.001 in the database, 0.01 now"),
        ({"search_space": {**IDENTITY["search_space"], "m": 1}}, "search_space.m is None in the database, 1 now"),
        ({"search_space": {}}, "search_space.lr is {'low': 0.001} in the database, None now"),
        ({"study": {"objective": "f1_macro", "seed": 7}}, "study.objective is 'f1_micro' in the database"),
    ],
)
def test_a_study_that_searches_something_else_is_refused_with_each_difference(storage, change, said):
    open_as_driver(storage)

    with pytest.raises(StudyMismatchError) as refused:
        open_as_driver(storage, IDENTITY | change)

    assert said in str(refused.value)


def test_a_study_that_somebody_else_made_is_refused(storage):
    optuna.create_study(storage=storage, study_name="s", direction="maximize").ask()

    with pytest.raises(StudyMismatchError, match="Switchyard did not make"):
        open_as_driver(storage)


def test_a_study_whose_driver_died_while_creating_it_is_taken_over(storage):
    optuna.create_study(storage=storage, study_name="s", direction="maximize")

    assert open_as_driver(storage).user_attrs[IDENTITY_KEY] == IDENTITY


def test_an_empty_study_that_minimises_is_not_taken_over(storage):
    optuna.create_study(storage=storage, study_name="s", direction="minimize")

    with pytest.raises(StudyMismatchError, match="Switchyard did not make"):
        open_as_driver(storage)


def test_an_epoch_that_a_later_attempt_trained_again_replaces_the_earlier_one(storage):
    study, ledger = new_ledger(storage)
    study.ask()

    ledger.record_epoch(0, EPOCH, "f1_micro")
    ledger.record_epoch(0, replace(EPOCH, f1_micro=0.6), "f1_micro")

    assert study.trials[0].intermediate_values == {0: 0.6}


def test_epochs_whose_news_was_lost_are_stored_at_the_end(storage):
    study, ledger = new_ledger(storage)
    study.ask()
    epochs = [replace(EPOCH, epoch=epoch, f1_micro=epoch / 10) for epoch in range(4)]
    ledger.record_epoch(0, epochs[0], "f1_micro")
    ledger.record_epoch(0, replace(epochs[2], f1_micro=0.9), "f1_micro")

    ledger.record_epochs(0, epochs, "f1_micro")

    assert study.trials[0].intermediate_values == {0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3}


def test_stock_optuna_reads_all_of_a_trial(storage, url):
    study, ledger = new_ledger(storage)
    trial = study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)})
    ledger.record_epoch(0, EPOCH, "f1_micro")
    ledger.record_end(0, COMPLETED, [ended(EPOCH)], [EPOCH])
    study.tell(trial, 0.5)

    [read] = optuna.load_study(storage=url, study_name="s").trials

    assert read.state is TrialState.COMPLETE
    assert read.value == 0.5
    assert read.intermediate_values == {0: 0.5}
    assert read.user_attrs["outcome"] == "completed"


def test_a_trial_that_a_person_has_ended_in_the_dashboard_stays_ended_and_the_driver_goes_on(storage, url):
    study, ledger = new_ledger(storage)
    study.ask()
    optuna.load_study(storage=url, study_name="s").tell(0, state=TrialState.FAIL)

    ledger.record_epoch(0, EPOCH, "f1_micro")
    ledger.record_end(0, COMPLETED, [ended(EPOCH)], [EPOCH])

    [trial] = study.trials
    assert trial.state is TrialState.FAIL
    assert trial.intermediate_values == {}


def test_a_reopened_trial_keeps_its_parameters(storage):
    study, ledger = new_ledger(storage)
    before = study.ask().suggest_float("lr", 0, 1)

    assert ledger.reopen(0).suggest_float("lr", 0, 1) == before


def test_the_attributes_of_a_trial_cover_all_of_its_attempts():
    first = ended(EPOCH, kind=EndKind.CRASHED, result=None, log_tail="Segmentation fault", wall_s=7.0)
    second = ended(replace(EPOCH, epoch=1, global_batch_size=32, samples_per_s=300.0, wall_s=0.5))
    epochs = [*first.epochs, *second.epochs, replace(second.epochs[0], epoch=2, samples_per_s=500.0, f1_macro=0.3)]

    attributes = trial_attributes(COMPLETED, [first, second], epochs)

    assert attributes["outcome"] == "completed"
    assert attributes["attempt_count"] == 2
    assert attributes["wall_s"] == 17.0
    assert attributes["f1_micro"] == 0.5
    assert attributes["f1_macro"] == 0.3
    assert attributes["images_per_s_by_batch_size"] == {"16": 100.0, "32": 400.0}
    assert attributes["epoch_s_by_batch_size"] == {"16": 1.0, "32": 0.5}
    assert attributes["epochs:global_batch_size"] == [16, 32, 32]
    assert attributes["hosts"] == ["node1", "node2"]
    assert attributes["data_plane"] == "mpi"
    assert attributes["communicator"]["mpi_enabled"] is True
    assert attributes["communicator"]["nccl_built"] is False
    assert attributes["log_tail"] == "Segmentation fault"


def test_a_trial_that_never_trained_has_attributes_all_the_same():
    crashed = AttemptEnd(EndKind.CRASHED, 1, 2.0, log_tail="ValueError: x")

    attributes = trial_attributes(Tell(Finish.FAIL, None, "crashed", "ValueError: x"), [crashed], [])

    assert attributes == {
        "outcome": "crashed",
        "reason": "ValueError: x",
        "wall_s": 2.0,
        "attempt_count": 1,
        "log_tail": "ValueError: x",
    }


def test_a_loss_that_is_not_finite_is_stored_as_what_json_knows():
    attributes = trial_attributes(COMPLETED, [ended(EPOCH)], [replace(EPOCH, train_loss=math.nan, val_loss=math.inf)])

    assert attributes["epochs:train_loss"] == [None]
    assert attributes["epochs:val_loss"] == [None]


def database_error(path: Path, statement: str, prepare: str = "") -> Exception:
    """What Optuna raises when SQLite refuses a statement."""
    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 0}})
    study = optuna.create_study(storage=storage)
    with sqlite3.connect(path) as other:
        for line in filter(None, prepare.split(";")):
            other.execute(line)
        other.execute(statement)
        with pytest.raises(StorageInternalError) as raised:
            study.ask()
    return raised.value


def test_another_readers_lock_may_pass(tmp_path):
    assert may_pass(database_error(tmp_path / "a.db", "begin exclusive"))


def test_a_database_that_has_lost_its_tables_will_not_come_back_by_waiting(tmp_path):
    assert not may_pass(database_error(tmp_path / "a.db", "drop table trials"))


def test_a_bug_is_no_database_error_that_may_pass():
    assert not may_pass(KeyError("a"))


def test_a_database_that_is_away_for_a_while_is_waited_for_and_a_person_is_told_once(storage, tmp_path):
    notices: list[str] = []
    study, ledger = new_ledger(storage, notices.append)
    study.ask()
    failures = [database_error(tmp_path / "other.db", "begin exclusive") for _ in range(2)]

    def answer_at_last() -> str:
        if failures:
            raise failures.pop()
        return "here"

    assert ledger.patiently(answer_at_last) == "here"
    assert len(notices) == 1
    assert "database is locked" in notices[0]


def test_a_database_that_refuses_is_not_waited_for(storage, tmp_path):
    _, ledger = new_ledger(storage)
    error = database_error(tmp_path / "other.db", "drop table trials")
    calls = []

    def refuse() -> None:
        calls.append("called")
        raise error

    with pytest.raises(DatabaseLostError, match="no such table: trials"):
        ledger.patiently(refuse)
    assert len(calls) == 1


def test_a_database_that_stays_away_is_given_up_with_what_to_do(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "_PATIENCE_S", 0)
    _, ledger = new_ledger(storage)
    error = database_error(tmp_path / "other.db", "begin exclusive")

    def stay_away() -> None:
        raise error

    with pytest.raises(DatabaseLostError, match="run the same command to go on"):
        ledger.patiently(stay_away)


def test_a_person_who_wants_an_end_does_not_wait_for_the_database(storage, tmp_path):
    study = open_as_driver(storage)
    stop = Event()
    # Told of the wait, the person presses Ctrl-C.
    ledger = Ledger(study, storage, lambda notice: stop.set(), stop)
    error = database_error(tmp_path / "other.db", "begin exclusive")

    def stay_away() -> None:
        raise error

    with pytest.raises(DatabaseLostError, match=r"when the driver was asked to stop: database is locked"):
        ledger.patiently(stay_away)


def test_a_study_is_refused_from_another_folder_as_long_as_its_own_exists(storage, tmp_path):
    study = open_as_driver(storage)
    here, elsewhere = tmp_path / "runs" / "s", tmp_path / "elsewhere" / "s"
    here.mkdir(parents=True)

    claim_study_dir(study, here, None)
    claim_study_dir(study, here, None)
    with pytest.raises(StudyMismatchError, match=f"are in {here}, not in {elsewhere}.*study.runs_dir={here.parent}"):
        claim_study_dir(study, elsewhere, None)
    here.parent.rename(elsewhere.parent)
    claim_study_dir(study, elsewhere, None)

    assert study.user_attrs[STUDY_DIR_KEY] == str(elsewhere)


def test_a_folder_may_have_several_names(storage, tmp_path):
    study = open_as_driver(storage)
    here, mounted = tmp_path / "runs" / "s", tmp_path / "mounted"
    here.mkdir(parents=True)
    study.set_user_attr(STUDY_DIR_KEY, str(mounted))
    mounted.symlink_to(here)

    claim_study_dir(study, here, None)

    assert study.user_attrs[STUDY_DIR_KEY] == str(here)


def test_a_folder_that_is_copied_with_its_database_is_a_study_of_its_own(storage, tmp_path):
    study = open_as_driver(storage)
    original, copy = tmp_path / "runs" / "s", tmp_path / "copy" / "s"
    for folder in (original, copy):
        folder.mkdir(parents=True)

    claim_study_dir(study, original, original)
    claim_study_dir(study, copy, copy)

    assert study.user_attrs[STUDY_DIR_KEY] == "."
