"""Trials that are promoted to more ranks, with real ones, in a study whose driver is killed in the middle of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from optuna.trial import FrozenTrial, TrialState

from storage.database import schema
from tests.study.driver import Finished, new_workplace
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(3000)

WITHIN_S = 1200
BATCH_SIZE = 16

SEARCH = (
    "--jobs=2",
    "--trials=3",
    "--set=training.epochs=4",
    f"--set=batch_policy.small_global_batch_size={BATCH_SIZE}",
    "--set=batch_policy.switch_epoch=4",
    "--set=pruner.name=asha",
    "--set=pruner.rungs=[1]",
    "--set=pruner.promotes=true",
    "--set=resources.nodes_per_rung=[1, 2]",
)


@dataclass(frozen=True)
class GrownStudy:
    trials: list[FrozenTrial]
    finished: Finished

    @property
    def best(self) -> FrozenTrial:
        [trial] = [trial for trial in self.trials if trial.state is TrialState.COMPLETE]
        return trial


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> GrownStudy:
    workplace = new_workplace(tmp_path_factory.mktemp("growing"), *SEARCH, ranks=1)
    with workplace.start() as driver:
        driver.wait_for_epochs(trial=0, attempt=1, count=1)
        wait_until(lambda: any(len(trial.intermediate_values) > 1 for trial in workplace.trials()), WITHIN_S)
        driver.kill()
    finished = workplace.run(within_s=WITHIN_S)
    assert finished.exit_code == 0, finished.output
    return GrownStudy(workplace.trials(), finished)


def test_the_best_of_three_goes_on_with_twice_the_ranks(study):
    nodes = [row.nodes for row in schema.read_attempts(study.best.user_attrs)]

    # The attempt that was killed, and the one after it, have the nodes of their rung.
    assert nodes[0] == 1
    assert set(nodes[1:]) == {2}
    assert study.best.user_attrs["communicator"]["world_size"] == 2
    assert [trial.state for trial in study.trials].count(TrialState.PRUNED) == 2


def test_its_batch_grows_with_them_and_no_epoch_is_missing(study):
    assert study.best.user_attrs["epochs:global_batch_size"] == [BATCH_SIZE] + [2 * BATCH_SIZE] * 3


def test_the_closing_table_says_how_many_nodes_the_trials_came_to(study):
    assert "at most: 1 for 2 trials, 2 for 1 trials" in study.finished.output
