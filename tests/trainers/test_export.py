"""Trained trials become models that need none of this project's code."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from storage.protocol.codec import from_json
from storage.protocol.exports import ExportRecord, TrialToExport
from storage.protocol.records import ClassScores, ComponentSpec, ObjectiveEpoch
from tests.contracts import dataset_examples
from tests.trainers.eurosat_images import write_jpegs
from tests.trainers.tiny_trial import DEADLINE_S, switch_at
from tests.trainers.trained_trial import evaluate_as_the_trainer, request_for, train_trial
from trainers.datasets import Split, read_samples
from trainers.export.folder import ExportError, export
from trainers.export.trained_model import load_trained
from trainers.faults import CheckpointError, SpecError
from trainers.metrics import score

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

# Run in an empty folder: nothing of this project can be imported.
_STANDALONE = """
import sys
import keras, numpy as np, tensorflow as tf
folder, samples = sys.argv[1], np.load("samples.npy")
np.save("keras.npy", keras.models.load_model(f"{folder}/model.keras")(samples))
saved_model = tf.saved_model.load(f"{folder}/saved_model")
np.save("saved.npy", saved_model.serve(tf.constant(samples)))
"""


class Trained(NamedTuple):
    first: TrialToExport
    second: TrialToExport


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("trials")
    network = ComponentSpec("small_resnet", {"width": 4, "blocks": [1, 1], "dropout_rate": 0.2})
    return Trained(
        train_trial(folder / "0000", model=network), train_trial(folder / "0001", number=1, seed=2, model=network)
    )


def scores_of(trial: TrialToExport) -> tuple[dict[str, float], ClassScores]:
    """What the weights that are exported score on the validation split."""
    loaded = load_trained(trial)
    source = loaded.dataset.open(Split.VAL)
    _, labels = read_samples(source, np.arange(len(source)))
    _, probabilities = evaluate_as_the_trainer(trial, Split.VAL)
    return score(labels > 0, probabilities, loaded.thresholds, loaded.dataset.class_names)


def run_alone(export_dir: Path, samples: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """What model.keras and saved_model give where this project's code is not to be found."""
    folder.mkdir()
    np.save(folder / "samples.npy", samples)
    (folder / "alone.py").write_text(_STANDALONE)
    subprocess.run((sys.executable, "-P", "alone.py", str(export_dir)), cwd=folder, env={}, check=True)
    return np.load(folder / "keras.npy"), np.load(folder / "saved.npy")


def test_both_models_give_the_trainers_own_probabilities_without_its_code(trained, tmp_path):
    export(request_for(tmp_path / "out", trained.first))

    samples, expected = evaluate_as_the_trainer(trained.first)
    of_keras, of_saved = run_alone(tmp_path / "out", samples, tmp_path / "alone")
    assert expected.std() > 0.01
    assert of_keras.dtype == np.float32
    np.testing.assert_allclose(of_keras, expected, atol=1e-5)
    np.testing.assert_allclose(of_saved, expected, atol=1e-5)


def test_an_ensemble_gives_the_mean_of_its_trials_probabilities(trained, tmp_path):
    export(request_for(tmp_path / "out", *trained))

    samples, first = evaluate_as_the_trainer(trained.first)
    _, second = evaluate_as_the_trainer(trained.second)
    of_keras, of_saved = run_alone(tmp_path / "out", samples, tmp_path / "alone")
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(of_keras, (first + second) / 2, atol=1e-5)
    np.testing.assert_allclose(of_saved, (first + second) / 2, atol=1e-5)


def test_the_record_and_the_card_say_what_the_model_is(trained, tmp_path):
    export(request_for(tmp_path / "out", trained.first))

    record = from_json(ExportRecord, (tmp_path / "out" / "export.json").read_text())
    assert (record.input_shape, record.input_dtype) == ((8, 8, 12), "uint16")
    assert (record.task, record.thresholds) == ("multi_label", (0.5,) * 19)
    assert record.bands is not None
    assert record.bands[:2] == ("B01", "B02")
    assert [(trial.number, trial.epochs, trial.counted_epoch) for trial in record.trials] == [(0, 2, 1)]
    assert record.trials[0].spec_sha256 == trained.first.spec_sha256
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert f"| 0 | 2 | 1 | {trained.first.scores['f1_micro']:.4f} |" in card
    assert f"| {trained.first.classes.f1[2]:.4f} |" in card
    assert "validation split (41 samples)" in card
    assert "with one seed (1)" in card


def test_one_label_is_exported_with_its_softmax_and_no_thresholds(tmp_path):
    write_jpegs(tmp_path / "images")
    trial = train_trial(
        tmp_path / "0000",
        dataset=ComponentSpec("eurosat", {"path": str(tmp_path / "images")}),
        task=ComponentSpec("single_label"),
        objective="accuracy",
    )

    export(request_for(tmp_path / "out", trial))

    samples, expected = evaluate_as_the_trainer(trial)
    of_keras, of_saved = run_alone(tmp_path / "out", samples, tmp_path / "alone")
    np.testing.assert_allclose(of_keras.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(of_keras, expected, atol=1e-5)
    np.testing.assert_allclose(of_saved, expected, atol=1e-5)
    record = from_json(ExportRecord, (tmp_path / "out" / "export.json").read_text())
    assert (record.task, record.thresholds) == ("single_label", ())
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert "that of the highest probability" in card
    assert f"{trial.scores['accuracy']:.4f}" in card


@pytest.fixture(scope="module")
def unsteady(tmp_path_factory) -> TrialToExport:
    """Its best epoch is not its last one, which comes early because nothing gets better."""
    return train_trial(
        tmp_path_factory.mktemp("unsteady") / "0000",
        epochs=40,
        optimizer=ComponentSpec("sgd", {"learning_rate": 3.0, "momentum": 0.9}),
        batch_policy=switch_at(40),
        task=ComponentSpec("multi_label", {"thresholds": "validation"}),
        objective="average_precision_macro",
        objective_epoch=ObjectiveEpoch.BEST,
        patience=2,
    )


def test_the_weights_and_thresholds_of_the_best_epoch_are_exported(unsteady, tmp_path):
    export(request_for(tmp_path / "out", unsteady))

    assert unsteady.counted_epoch == unsteady.epochs - 3 < 37, "choose a trial that ends by patience"
    scores, classes = scores_of(unsteady)
    assert scores == pytest.approx(unsteady.scores, abs=1e-6)
    record = from_json(ExportRecord, (tmp_path / "out" / "export.json").read_text())
    assert record.thresholds == tuple(unsteady.classes.thresholds)
    assert classes.f1 == pytest.approx(unsteady.classes.f1, abs=1e-6)
    samples, expected = evaluate_as_the_trainer(unsteady)
    of_keras, _ = run_alone(tmp_path / "out", samples, tmp_path / "alone")
    np.testing.assert_allclose(of_keras, expected, atol=1e-5)
    assert "and so were the thresholds" in (tmp_path / "out" / "model_card.md").read_text()


def test_weights_of_another_epoch_than_the_score_are_refused(unsteady, tmp_path):
    later = dataclasses.replace(unsteady, counted_epoch=unsteady.counted_epoch + 1)

    with pytest.raises(CheckpointError, match=f"does not hold the weights of epoch {later.counted_epoch}"):
        export(request_for(tmp_path / "out", later))


def test_packed_bands_of_several_resolutions_are_unpacked_inside_the_model(tmp_path):
    options = dataset_examples.bigearthnet(tmp_path)
    trial = train_trial(tmp_path / "0000", dataset=ComponentSpec("bigearthnet", options))

    export(request_for(tmp_path / "out", trial))

    samples, expected = evaluate_as_the_trainer(trial)
    of_keras, _ = run_alone(tmp_path / "out", samples, tmp_path / "alone")
    np.testing.assert_allclose(of_keras, expected, atol=1e-5)


def test_a_checkpoint_of_another_trial_is_refused(trained, tmp_path):
    copy = tmp_path / "0000"
    shutil.copytree(trained.first.trial_dir, copy)
    shutil.copy(Path(trained.second.trial_dir) / "attempt-01/checkpoint.npz", copy / "attempt-01/checkpoint.npz")

    with pytest.raises(CheckpointError, match="move it away"):
        export(request_for(tmp_path / "out", dataclasses.replace(trained.first, trial_dir=str(copy))))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000"]


def test_lost_weights_are_one_error_and_leave_nothing_behind(trained, tmp_path):
    copy = tmp_path / "0000"
    shutil.copytree(trained.first.trial_dir, copy)
    (copy / "attempt-01/checkpoint.npz").unlink()

    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        export(request_for(tmp_path / "out", dataclasses.replace(trained.first, trial_dir=str(copy))))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000"]


def test_a_specification_that_the_database_does_not_know_is_refused(trained, tmp_path):
    with pytest.raises(SpecError, match="in the database is specification"):
        export(request_for(tmp_path / "out", dataclasses.replace(trained.first, spec_sha256="0" * 64)))


def test_a_folder_that_is_there_is_left_as_it_is(trained, tmp_path):
    (tmp_path / "kept").write_text("")

    with pytest.raises(ExportError, match="is there already"):
        export(request_for(tmp_path, trained.first))

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
