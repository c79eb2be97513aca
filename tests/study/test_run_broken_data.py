"""Data that break in mid-study, and a failed trial that is run again: neither costs a study its trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState
from PIL import Image

from tests.study.driver import WITHIN_S, Finished, Workplace, new_workplace
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

EPOCHS = 2
# In a row; on one machine there is nowhere else to try.
MAX_FAILED_ALLOCATIONS = 3


@dataclass(frozen=True)
class BrokenStudy:
    """One trial, whose only rank is killed before an epoch; by this study's settings, that ends it."""

    workplace: Workplace
    failed: Finished
    trial_when_failed: FrozenTrial
    halted: Finished
    """An image was cut off; then `--retry-failed`."""
    trial_when_halted: FrozenTrial
    finished: Finished
    """The image was restored; then the command without anything."""

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.workplace.trials()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> BrokenStudy:
    folder = tmp_path_factory.mktemp("broken")
    images = write_images(folder / "images")
    options = ("--set", 'dataset={name="image_folder", path="images"}', "--set", "study.interruption_retries=0")
    workplace = new_workplace(folder, *options, "--trials", "1")
    with workplace.start() as driver:
        for rank in driver.wait_for_ranks(trial=0, attempt=1):
            wait_until(lambda: workplace.trial_dir(0).attempt(1).has_begun, WITHIN_S)
            rank.kill()
        failed = driver.finish()
    [trial_when_failed] = workplace.trials()

    restore = cut_off(images / "5.png")
    halted = workplace.run("--retry-failed")
    [trial_when_halted] = workplace.trials()
    restore()
    return BrokenStudy(workplace, failed, trial_when_failed, halted, trial_when_halted, workplace.run())


def write_images(folder: Path) -> Path:
    """64 to train on and 32 to evaluate."""
    folder.mkdir()
    rows = [f"{n}.png,{'train' if n < 64 else 'val'},{n % 2},{1 - n % 2}" for n in range(96)]
    for number in range(96):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(folder / f"{number}.png")
    (folder / "labels.csv").write_text("\n".join(["image,split,grass,water", *rows, ""]))
    return folder


def cut_off(path: Path) -> Callable[[], int]:
    """Leave the beginning of a file; gives what puts it right."""
    whole = path.read_bytes()
    path.write_bytes(whole[:30])
    return lambda: path.write_bytes(whole)


def test_a_trial_that_is_interrupted_once_too_often_has_failed(study):
    assert study.failed.exit_code == 1, study.failed.output
    assert study.trial_when_failed.state is TrialState.FAIL
    assert study.trial_when_failed.user_attrs["outcome"] == "interrupted"


def test_a_failed_trial_is_run_again_with_its_number_and_parameters(study):
    assert "note: trying again: trial 0" in study.halted.output
    assert "trial 0 started (attempt 2)" in study.halted.output
    assert study.trial_when_halted.params == study.trial_when_failed.params


def test_data_that_cannot_be_read_halt_the_study_with_its_trials_untold_and_the_file_named(study):
    *_, error = study.halted.output.splitlines()

    assert study.halted.exit_code == 2
    assert error.startswith(f"error: mpirun could not train, {MAX_FAILED_ALLOCATIONS} times in a row")
    assert f"{study.workplace.folder / 'images/5.png'} cannot be decoded" in error
    assert "run the same command to go on" in error
    assert study.trial_when_halted.state is TrialState.RUNNING


def test_with_the_data_restored_the_same_command_completes_the_trial_that_was_there(study):
    assert study.finished.exit_code == 0, study.finished.output
    [trial] = study.trials
    assert (trial.number, trial.state) == (0, TrialState.COMPLETE)
    assert trial.params == study.trial_when_failed.params
    assert sorted(trial.intermediate_values) == list(range(EPOCHS))
    assert trial.user_attrs["attempt_count"] == 1 + MAX_FAILED_ALLOCATIONS + 1


def test_ranks_find_data_of_a_relative_path_wherever_they_are_started(study):
    assert study.workplace.trial_dir(0).read_spec().dataset.options["path"] == str(study.workplace.folder / "images")
