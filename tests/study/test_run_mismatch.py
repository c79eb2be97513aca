"""A database and a folder that do not belong together: nothing is believed that another study trained."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.study.driver import Workplace, new_workplace, slow_training

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

EPOCHS = 30
OTHER_SEED = ("--set", "study.seed=8")


@dataclass(frozen=True)
class PausedStudy:
    """One trial, paused in mid-training. Its database is lost, and lies beside."""

    workplace: Workplace
    learning_rate: float
    epochs_done: int

    @property
    def lost_database(self) -> Path:
        return self.workplace.folder / "lost.db"


@pytest.fixture(scope="module")
def paused(tmp_path_factory) -> PausedStudy:
    workplace = new_workplace(tmp_path_factory.mktemp("paused"), *slow_training(EPOCHS), "--trials", "1")
    with workplace.start() as driver:
        driver.wait_for_epochs(trial=0, attempt=1, count=2)
        driver.signal(signal.SIGTERM)
        assert driver.finish().exit_code == 128 + signal.SIGTERM
    [trial] = workplace.trials()
    study = PausedStudy(workplace, trial.params["learning_rate"], len(workplace.trial_dir(0).attempt(1).read_metrics()))
    (workplace.study_dir / "study.db").rename(study.lost_database)
    return study


@pytest.fixture
def copy(paused: PausedStudy, tmp_path: Path) -> Workplace:
    """To do something to."""
    return paused.workplace.copy_to(tmp_path)


def files_of_trials(workplace: Workplace) -> dict[str, bytes]:
    return {path: content for path, content in workplace.files().items() if "/trials/" in path}


@pytest.mark.parametrize("change", [(), OTHER_SEED], ids=["the same config", "another seed"])
def test_a_new_database_over_trained_trials_is_one_error_that_names_both_and_the_ways_out(copy, change):
    before = files_of_trials(copy)

    error = copy.run(*change).error

    assert f"the folder {copy.study_dir} belongs to study " in error
    assert "study 'small' in this database is a new one" in error
    assert "Move the folder away" in error
    assert "--adopt" in error
    assert files_of_trials(copy) == before
    assert copy.trials() == []


def test_an_adopted_folder_goes_on_from_its_checkpoint_and_later_is_not_trained_again(paused, copy):
    adopted = copy.run("--adopt")

    assert adopted.exit_code == 0, adopted.output
    [trial] = copy.trials()
    assert trial.state is TrialState.COMPLETE
    assert trial.params["learning_rate"] == paused.learning_rate
    assert sorted(trial.intermediate_values) == list(range(EPOCHS))
    assert copy.trial_dir(0).attempt(2).read_metrics()[0].epoch == paused.epochs_done

    # Now what is lost is the database of a trial that is over.
    (copy.study_dir / "study.db").unlink()
    assert "--adopt" in copy.run().error
    again = copy.run("--adopt")

    assert again.exit_code == 0, again.output
    assert "started" not in again.output
    [told_again] = copy.trials()
    assert (told_again.state, told_again.value) == (TrialState.COMPLETE, trial.value)
    assert told_again.intermediate_values == trial.intermediate_values


def test_with_the_folder_moved_away_the_same_command_starts_anew(copy):
    assert "--adopt" in copy.run().error
    copy.study_dir.rename(copy.folder / "moved_away")

    anew = copy.run()

    assert anew.exit_code == 0, anew.output
    [trial] = copy.trials()
    assert (trial.state, trial.user_attrs["attempt_count"]) == (TrialState.COMPLETE, 1)
    assert copy.trial_dir(0).attempt(1).read_metrics()[0].epoch == 0


def test_what_another_seed_trained_is_set_aside_and_never_told_as_this_seed_s_trial(paused, copy):
    adopted = copy.run("--adopt", *OTHER_SEED)

    assert adopted.exit_code == 0, adopted.output
    assert "note: trial 0: its folder held another specification; it is 0000.other-0 now" in adopted.output
    [trial] = copy.trials()
    assert trial.state is TrialState.COMPLETE
    assert trial.params["learning_rate"] != paused.learning_rate
    assert copy.trial_dir(0).read_spec().optimizer.options == trial.params
    own = copy.trial_dir(0).attempt(1).read_metrics()
    assert [metrics.epoch for metrics in own] == list(range(EPOCHS))
    assert trial.value == own[-1].f1_micro


def test_another_seed_and_config_are_refused_by_the_database_that_knows_the_first_ones(paused, copy):
    (copy.study_dir / "study.db").write_bytes(paused.lost_database.read_bytes())

    # Neither needs a model to be built anew, for which a person would wait.
    error = copy.run("--adopt", *OTHER_SEED, "--set", "study.objective=f1_macro").error

    assert "study.seed is 7 in the database, 8 now" in error
    assert "study.objective is 'f1_micro' in the database, 'f1_macro' now" in error


def test_a_database_whose_trials_lost_their_files_is_one_error_that_names_both(paused, copy):
    copy.study_dir.rename(copy.folder / "purged")
    copy.study_dir.mkdir()
    (copy.study_dir / "study.db").write_bytes(paused.lost_database.read_bytes())

    error = copy.run().error

    assert f"has begun trial 0, whose files are not in {copy.study_dir}" in error
    assert "--adopt" in error
