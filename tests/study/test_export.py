"""A study's trials become models: from the database to a folder, by the commands that a person types."""

from __future__ import annotations

import csv
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from storage.database.endpoint import StorageError
from storage.protocol.codec import from_json
from storage.protocol.exports import ExportRecord
from study.export_request import ExportRequestError, make_request
from study.finished_trials import best_trial
from tests.study.driver import Workplace, new_workplace, run_command
from tests.trainers.trained_trial import evaluate_as_the_trainer

# A whole study: on a machine that is busy with other things, it takes minutes.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Workplace:
    """Three completed trials."""
    workplace = new_workplace(tmp_path_factory.mktemp("complete"), "--set", "dataset.test=16")
    finished = workplace.run()
    assert finished.exit_code == 0, finished.output
    return workplace


def request(workplace: Workplace, number: int | None = None, ensemble: int = 1, out: str = "out"):
    runs_dir = workplace.folder / "runs"
    return make_request("small", None, runs_dir, number, ensemble, workplace.folder / out)


def test_the_best_trial_of_a_study_predicts_as_its_trainer_does(workplace):
    exported = run_command(workplace, "export.py", "small", "--out", "model")

    best = best_trial(workplace.trials())
    assert exported.exit_code == 0, exported.output
    assert f"exported trial {best.number} (f1_micro {best.value:.4f}) to model" in exported.output
    record = from_json(ExportRecord, (workplace.folder / "model/export.json").read_text())
    assert (record.trials[0].score, record.trials[0].counted_epoch) == (best.value, 1)
    samples, expected = evaluate_as_the_trainer(request(workplace).trials[0])
    np.save(workplace.folder / "samples.npy", samples)
    predicted = run_command(workplace, "predict.py", "model", "samples.npy", "--out", "table.csv")
    assert predicted.exit_code == 0, predicted.output
    with (workplace.folder / "table.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    np.testing.assert_allclose(np.array([row[2:] for row in rows], float), expected, atol=1e-5)


def test_the_ensemble_is_of_the_best_trials_in_their_order(workplace):
    chosen = request(workplace, ensemble=2).trials

    scores = sorted((trial.value for trial in workplace.trials()), reverse=True)
    assert [trial.score for trial in chosen] == scores[:2]
    assert chosen[0].scores["f1_micro"] == scores[0]
    assert len(chosen[0].classes.names) == 19
    assert (chosen[0].epochs, chosen[0].counted_epoch) == (2, 1)


def test_a_configuration_that_nobody_has_trained_again_has_no_interval(workplace):
    assert request(workplace).evaluation is None


def test_a_trial_is_chosen_by_its_number(workplace):
    assert [trial.number for trial in request(workplace, number=1).trials] == [1]


def test_a_study_that_was_moved_is_found_in_runs_dir(workplace, tmp_path):
    moved = workplace.copy_to(tmp_path / "moved")

    assert request(moved).trials[0].trial_dir.startswith(str(tmp_path / "moved"))


@pytest.mark.parametrize(
    ("number", "ensemble", "words"),
    [
        (9, 1, "--trial 9: study 'small' has no such trial; completed are 0, 1, 2"),
        (None, 4, "--ensemble 4: study 'small' has 3 completed trial"),
        (None, 0, "--ensemble 0"),
    ],
)
def test_trials_that_are_not_there_are_named(workplace, number, ensemble, words):
    with pytest.raises(ExportRequestError, match=words):
        request(workplace, number, ensemble)


def test_an_out_that_is_there_is_refused(workplace):
    with pytest.raises(ExportRequestError, match="is there already"):
        request(workplace, out="runs")


def test_a_study_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError):
        make_request("small", None, tmp_path / "runs", None, 1, tmp_path / "out")


def test_a_failed_trial_has_no_weights_to_export(workplace, tmp_path):
    copy = workplace.copy_to(tmp_path / "copy")
    study = optuna.load_study(storage=copy.database_url, study_name="small")
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"outcome": "crashed", "reason": "x"}))

    with pytest.raises(ExportRequestError, match="--trial 3 is crashed, so it has no final weights"):
        request(copy, number=3)


def test_a_trial_that_breaks_the_constraint_is_exported_by_its_number_alone(workplace, tmp_path):
    copy = workplace.copy_to(tmp_path / "copy")
    best, second, _ = sorted(copy.trials(), key=lambda trial: -trial.value)
    # Optuna changes no trial that is told.
    with sqlite3.connect(copy.study_dir / "study.db") as database:
        row = (best._trial_id, "constraints:node_hours <= 0", "1.0")
        database.execute("INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (?, ?, ?)", row)

    assert request(copy).trials[0].number == second.number
    assert request(copy, number=best.number).trials[0].number == best.number
    with pytest.raises(ExportRequestError, match=r"has 2 completed trial\(s\) within its constraint"):
        request(copy, ensemble=3)


def test_a_study_without_a_completed_trial_has_nothing_to_export(tmp_path):
    (tmp_path / "runs/small").mkdir(parents=True)
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/runs/small/study.db", study_name="small")
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"outcome": "crashed"}))

    with pytest.raises(ExportRequestError, match="has no completed trial"):
        make_request("small", None, tmp_path / "runs", None, 1, tmp_path / "out")


def test_a_study_whose_files_are_lost_is_refused(workplace, tmp_path):
    copy = workplace.copy_to(tmp_path / "copy")
    database = shutil.move(copy.study_dir / "study.db", tmp_path / "study.db")
    shutil.rmtree(copy.folder)

    with pytest.raises(ExportRequestError, match="name the folder that holds the study's with --runs-dir"):
        make_request("small", f"sqlite:///{database}", tmp_path / "runs", None, 1, tmp_path / "out")


def test_a_trial_whose_folder_is_lost_is_refused(workplace, tmp_path):
    copy = workplace.copy_to(tmp_path / "copy")
    shutil.rmtree(copy.trial_dir(1).path)

    with pytest.raises(ExportRequestError, match=r"trial 1 has no files in .*0001, so its weights are lost"):
        request(copy, number=1)


def test_missing_weights_are_one_error_and_nothing_is_written(workplace, tmp_path):
    copy = workplace.copy_to(tmp_path / "copy")
    for checkpoint in copy.trial_dir(2).checkpoints():
        checkpoint.unlink()

    exported = run_command(copy, "export.py", "small", "--trial", "2", "--out", "other")

    assert "holds no checkpoint, so its weights are lost" in exported.error
    assert not list(Path(copy.folder).glob("*other*"))
