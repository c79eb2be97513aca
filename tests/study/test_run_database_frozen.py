"""A database server that takes connections and answers nothing, in mid-study: no timeout of a driver covers that."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from storage.protocol.variables import STORAGE_PASSWORD
from tests.postgres_server import PostgresServer
from tests.study.driver import WITHIN_S, Finished, new_workplace, slow_training
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

TRIALS, EPOCHS = 1, 30
STOPS = "SIGINT: the trials under way save a checkpoint and pause"


@dataclass(frozen=True)
class FrozenDatabase:
    """One trial. The server was frozen after its second epoch, and only then a person pressed Ctrl-C."""

    interrupted: Finished
    said_after_s: float
    """From Ctrl-C to the driver's word that it stops."""
    finished: Finished
    """The same command, when the server answered again."""
    trials: list[FrozenTrial]


@pytest.fixture(scope="module")
def study(postgres: PostgresServer, tmp_path_factory) -> FrozenDatabase:
    options = (*slow_training(EPOCHS), "--trials", str(TRIALS), "--storage", postgres.create_database("frozen"))
    workplace = new_workplace(tmp_path_factory.mktemp("frozen"), *options)
    password = {STORAGE_PASSWORD: postgres.password}
    with workplace.start(**password) as driver:
        driver.wait_for_epochs(trial=0, attempt=1, count=2)
        with postgres.frozen():
            wait_until(lambda: "The database does not answer" in driver.output, WITHIN_S)
            pressed_s = time.monotonic()
            driver.press_ctrl_c()
            wait_until(lambda: STOPS in driver.output, WITHIN_S)
            said_after_s = time.monotonic() - pressed_s
            # Within the block: the server does not answer before the driver has ended.
            interrupted = driver.finish()
    finished = workplace.run(**password)
    trials = optuna.load_study(storage=postgres.url_with_password("frozen"), study_name="small").trials
    return FrozenDatabase(interrupted, said_after_s, finished, trials)


def test_a_person_is_told_that_the_database_is_waited_for(study):
    assert "note: The database does not answer, so its news waits; the trials train on." in study.interrupted.output


def test_ctrl_c_is_answered_although_the_database_is_not(study):
    # 5 s are promised; the rest is for a machine that is busy with other things.
    assert study.said_after_s < 20
    assert study.interrupted.exit_code == 128 + signal.SIGINT, study.interrupted.output
    assert "Run the same command to go on." in study.interrupted.output
    assert "Traceback" not in study.interrupted.output


def test_the_same_command_completes_the_study_when_the_database_answers_again(study):
    assert study.finished.exit_code == 0, study.finished.output
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * TRIALS
    for trial in study.trials:
        assert sorted(trial.intermediate_values) == list(range(EPOCHS))
