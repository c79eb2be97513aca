"""A study that is interrupted in every way, and goes on each time: nothing lost, nothing done twice."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.study.driver import WITHIN_S, Finished, Workplace, new_workplace, slow_training
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

TRIALS, EPOCHS = 2, 30


@dataclass(frozen=True)
class InterruptedStudy:
    """Two trials; what follows happened to the first one, in this order, always after an epoch or more."""

    workplace: Workplace
    terminated: Finished
    """Attempt 1: SIGTERM to the driver."""
    ctrl_c: Finished
    """Attempt 2: SIGINT to all of the driver's group, as a terminal sends it."""
    survivors: list[psutil.Process]
    """Attempt 3: SIGKILL to the driver; what still ran after a while."""
    trials_after_kill: list[FrozenTrial]
    finished: Finished
    """The last driver, run to its end. Attempt 4: the driver was killed while the ranks had not begun to train. Attempt
    5: SIGKILL to a rank. Attempt 6 finished the trial."""

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.workplace.trials()

    def epochs_of_attempt(self, number: int) -> list[int]:
        return [metrics.epoch for metrics in self.workplace.trial_dir(0).attempt(number).read_metrics()]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> InterruptedStudy:
    workplace = new_workplace(tmp_path_factory.mktemp("interrupted"), *slow_training(EPOCHS), "--trials", str(TRIALS))
    with workplace.start() as driver:
        driver.wait_for_epochs(trial=0, attempt=1, count=2)
        driver.signal(signal.SIGTERM)
        terminated = driver.finish()

    with workplace.start() as driver:
        driver.wait_for_epochs(trial=0, attempt=2, count=2)
        driver.press_ctrl_c()
        ctrl_c = driver.finish()

    with workplace.start() as driver:
        driver.wait_for_epochs(trial=0, attempt=3, count=2)
        driver.kill()
        survivors = _those_that_stay(workplace)
        trials_after_kill = workplace.trials()

    with workplace.start() as driver:
        driver.wait_for_ranks(trial=0, attempt=4)
        driver.kill()
        # Not waiting for its ranks to be gone: a person does not either.
        with workplace.start() as last_driver:
            last_driver.wait_for_epochs(trial=0, attempt=5, count=1)
            last_driver.wait_for_ranks(trial=0, attempt=5)[0].kill()
            finished = last_driver.finish()
    return InterruptedStudy(workplace, terminated, ctrl_c, survivors, trials_after_kill, finished)


def test_a_trial_whose_ranks_are_still_starting_can_be_paused_too(tmp_path):
    workplace = new_workplace(tmp_path, *slow_training(EPOCHS), "--trials", "1")
    with workplace.start() as driver:
        # From here on they take the signal; before, in Python's own start, it ends them, and the trial starts over.
        wait_until((workplace.trial_dir(0).attempt(1).path / "begun").exists, WITHIN_S)
        driver.signal(signal.SIGTERM)
        terminated = driver.finish()

    assert terminated.exit_code == 128 + signal.SIGTERM, terminated.output
    assert "goes on from its checkpoint" in terminated.output
    [trial] = workplace.trials()
    assert trial.state is TrialState.RUNNING


def _those_that_stay(workplace: Workplace) -> list[psutil.Process]:
    try:
        wait_until(lambda: not workplace.rank_processes(), WITHIN_S)
    except TimeoutError:
        return workplace.rank_processes()
    return []


def test_it_ends_with_exactly_the_trials_that_were_asked_for(study):
    assert study.finished.exit_code == 0, study.finished.output
    assert [trial.number for trial in study.trials] == list(range(TRIALS))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * TRIALS


def test_every_epoch_of_every_trial_is_stored(study):
    for trial in study.trials:
        assert sorted(trial.intermediate_values) == list(range(EPOCHS))
        assert trial.user_attrs["epochs:global_batch_size"] == [16] + [32] * (EPOCHS - 1)


def test_sigterm_pauses_the_trials_and_the_exit_code_says_so(study):
    assert study.terminated.exit_code == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM. Run the same command to go on." in study.terminated.output
    assert "trial 0 paused: goes on from its checkpoint" in study.terminated.output


def test_ctrl_c_pauses_the_trials_and_the_exit_code_says_so(study):
    assert study.ctrl_c.exit_code == 128 + signal.SIGINT
    assert "Stopped by SIGINT. Run the same command to go on." in study.ctrl_c.output
    assert "trial 0 paused: goes on from its checkpoint" in study.ctrl_c.output
    assert "Traceback" not in study.ctrl_c.output


def test_no_rank_survives_the_kill_of_the_driver(study):
    assert study.survivors == []


def test_a_killed_driver_leaves_its_trial_running_in_the_database_with_the_epochs_that_it_had(study):
    [trial] = study.trials_after_kill

    assert trial.state is TrialState.RUNNING
    assert len(trial.intermediate_values) >= 2


@pytest.mark.parametrize("attempt", [2, 3, 5, 6])
def test_every_attempt_goes_on_from_the_checkpoint_of_those_before_it(study, attempt):
    before = max(epoch for number in range(1, attempt) for epoch in study.epochs_of_attempt(number))

    first, *_ = study.epochs_of_attempt(attempt)

    # A killed rank repeats the epoch that was finished and not yet saved; nobody repeats more.
    assert before <= first <= before + 1


@pytest.mark.parametrize("attempt", [2, 3])
def test_a_paused_trial_repeats_no_epoch(study, attempt):
    assert study.epochs_of_attempt(attempt)[0] == study.epochs_of_attempt(attempt - 1)[-1] + 1


def test_a_rank_that_is_killed_costs_its_trial_an_attempt_and_nothing_else(study):
    assert "trial 0 interrupted" in study.finished.output
    assert "trial 0 started (attempt 6)" in study.finished.output
    assert study.trials[0].user_attrs["attempt_count"] == 6
    assert study.trials[0].user_attrs["outcome"] == "completed"


def test_the_attempts_are_told_apart_in_the_database(study):
    ends = [attempt["end"] for attempt in study.trials[0].user_attrs["attempts"]]

    # Whether the ranks that had not begun to train still saved, or gave way to their successors, is up to the machine.
    assert ends.pop(3) in ("abandoned", "paused", "superseded")
    assert ends == ["paused", "paused", "paused", "interrupted", "completed"]


def test_what_comes_after_an_interrupted_trial_is_not_touched_by_it(study):
    assert study.trials[1].user_attrs["attempt_count"] == 1
    assert study.trials[1].params != study.trials[0].params
