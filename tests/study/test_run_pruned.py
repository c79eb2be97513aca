"""Successive halving with real ranks: a study that is killed again and again decides as one that is not."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from storage.database import schema
from storage.database.schema import VerdictRow
from tests.study.driver import Finished, new_workplace
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(3000)

WITHIN_S = 1200

SEARCH = (
    "--deterministic",
    "--trials=4",
    "--set=training.epochs=8",
    "--set=dataset.train=512",
    "--set=batch_policy.switch_epoch=6",
    "--set=pruner.name=asha",
    "--set=pruner.rungs=[1, 3]",
    "--set=pruner.factor=2",
    "--set=pruner.promotes=true",
)


@dataclass(frozen=True)
class TwoStudies:
    """The same search twice, with two ranks a trial."""

    undisturbed: list[FrozenTrial]
    killed: list[FrozenTrial]
    """SIGKILL to its driver, in the middle of trial 1 and in the middle of the first promoted trial."""
    finished: Finished


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> TwoStudies:
    workplace = new_workplace(tmp_path_factory.mktemp("pruned"), *SEARCH, ranks=2)
    undisturbed = workplace.run("--name=undisturbed", within_s=WITHIN_S)
    assert undisturbed.exit_code == 0, undisturbed.output

    with workplace.start() as driver:
        driver.wait_for_epochs(trial=1, attempt=1, count=1)
        driver.kill()
    with workplace.start() as driver:
        wait_until(lambda: _promoted(workplace.trials()), WITHIN_S)
        driver.kill()
    finished = workplace.run(within_s=WITHIN_S)
    storage = f"sqlite:///{workplace.folder}/runs/undisturbed/study.db"
    return TwoStudies(optuna.load_study(storage=storage, study_name="undisturbed").trials, workplace.trials(), finished)


def test_weak_trials_are_pruned_and_the_best_train_to_the_end(studies):
    states = [trial.state for trial in studies.undisturbed]

    assert states.count(TrialState.PRUNED) >= 2
    assert TrialState.COMPLETE in states
    assert len(states) == states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE)


def test_a_study_whose_driver_was_killed_has_decided_as_one_that_was_not(studies):
    assert _verdicts(studies.killed) == _verdicts(studies.undisturbed)
    assert [trial.state for trial in studies.killed] == [trial.state for trial in studies.undisturbed]


def test_trials_that_were_held_and_promoted_train_to_the_same_scores(studies):
    for killed, undisturbed in zip(studies.killed, studies.undisturbed, strict=True):
        if undisturbed.state is TrialState.COMPLETE:
            assert killed.intermediate_values == undisturbed.intermediate_values


def test_the_closing_table_says_what_was_pruned_and_what_was_promoted(studies):
    table = studies.finished.output.partition("study small")[2]

    assert f"{sum(t.state is TrialState.PRUNED for t in studies.killed)} of 4 pruned" in table
    assert "held and promoted: " in table


def _promoted(trials: list[FrozenTrial]) -> list[VerdictRow]:
    return [row for _, row in _verdicts(trials) if row.promoted is not None]


def _verdicts(trials: list[FrozenTrial]) -> list[tuple[int, VerdictRow]]:
    rows = [(trial.number, row) for trial in trials for row in schema.read_verdicts(trial.user_attrs)]
    return sorted(rows, key=lambda pair: pair[1].order)
