"""A database server that is away for a while in mid-study: the trials train on, and nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from storage.protocol.variables import STORAGE_PASSWORD
from tests.postgres_server import PostgresServer
from tests.study.driver import WITHIN_S, Finished, Workplace, new_workplace, slow_training
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

EPOCHS = 30


@dataclass(frozen=True)
class InterruptedDatabase:
    """One trial. The server was stopped after its second epoch and came back when it had finished some more."""

    finished: Finished
    trials: list[FrozenTrial]
    epochs_when_back: int
    """That the ranks had finished by then."""
    epochs_stored_when_stopped: int
    rank_environment: dict[str, str]


@pytest.fixture(scope="module")
def study(postgres: PostgresServer, tmp_path_factory) -> InterruptedDatabase:
    url = postgres.create_database("away")
    workplace = new_workplace(
        tmp_path_factory.mktemp("away"), *slow_training(EPOCHS), "--trials", "1", "--storage", url
    )
    with workplace.start(**{STORAGE_PASSWORD: postgres.password}) as driver:
        driver.wait_for_epochs(trial=0, attempt=1, count=2)
        [rank] = driver.wait_for_ranks(trial=0, attempt=1)
        environment = rank.environ()
        stored = len(_trials(postgres)[0].intermediate_values)
        postgres.stop()
        try:
            wait_until(lambda: "The database does not answer" in driver.output, WITHIN_S)
            trained = _epochs(workplace)
            # The ranks do not need the database: they go on meanwhile, or have come to their end.
            wait_until(lambda: _epochs(workplace) > trained or trained == EPOCHS, WITHIN_S)
        finally:
            postgres.start()
        epochs_when_back = _epochs(workplace)
        finished = driver.finish()
    return InterruptedDatabase(finished, _trials(postgres), epochs_when_back, stored, environment)


def _epochs(workplace: Workplace) -> int:
    return len(workplace.trial_dir(0).attempt(1).read_metrics())


def _trials(postgres: PostgresServer) -> list[FrozenTrial]:
    return optuna.load_study(storage=postgres.url_with_password("away"), study_name="small").trials


def test_the_study_completes_when_the_database_is_back(study):
    assert study.finished.exit_code == 0, study.finished.output
    [trial] = study.trials
    assert trial.state is TrialState.COMPLETE
    assert trial.user_attrs["attempt_count"] == 1


def test_the_ranks_trained_on_while_the_database_was_away(study):
    assert study.epochs_when_back > study.epochs_stored_when_stopped


def test_no_epoch_is_lost(study):
    assert sorted(study.trials[0].intermediate_values) == list(range(EPOCHS))


def test_a_person_is_told_that_the_database_is_waited_for(study):
    assert "note: The database does not answer" in study.finished.output


def test_the_closing_table_names_the_database_without_its_password(study, postgres):
    assert f"postgresql+psycopg://ada@127.0.0.1:{postgres.port}/away" in study.finished.output
    assert postgres.password not in study.finished.output


def test_ranks_are_not_told_the_password(study, postgres):
    assert not [name for name, value in study.rank_environment.items() if postgres.password in value]
