"""Trials whose best epoch counts, and that end when nothing gets better."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from storage.protocol.attempts import AttemptEnd
from storage.protocol.records import ComponentSpec, ObjectiveEpoch, Outcome, TrialSpec
from storage.protocol.trial_dir import TrialDir
from tests.trainers.eurosat_images import write_jpegs
from tests.trainers.tiny_trial import (
    DEADLINE_S,
    READS_PER_EPOCH,
    Run,
    held_ranks,
    open_attempt,
    release_ranks,
    switch_at,
    tiny_spec,
    without_times,
)

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

# Steps so large that the scores go up and down, and the last epoch is not the best one.
UNSTEADY = tiny_spec(
    epochs=6,
    optimizer=ComponentSpec("sgd", {"learning_rate": 3.0, "momentum": 0.9}),
    batch_policy=switch_at(7),
    objective="average_precision_macro",
    objective_epoch=ObjectiveEpoch.BEST,
    checkpoint_every_epochs=2,
)


def ended(folder: Path, spec: TrialSpec) -> AttemptEnd:
    return Run(open_attempt(folder, spec)).end()


@pytest.fixture(scope="module")
def unsteady(tmp_path_factory) -> AttemptEnd:
    end = ended(tmp_path_factory.mktemp("unsteady") / "trial", UNSTEADY)
    assert end.result is not None, end.log_tail
    return end


def scores(end: AttemptEnd) -> list[float]:
    return [metrics.score(UNSTEADY.objective) for metrics in end.result.epochs]


def test_the_epoch_with_the_highest_score_counts(unsteady):
    assert unsteady.result.counted_epoch == int(np.argmax(scores(unsteady)))
    assert unsteady.result.counted_epoch < UNSTEADY.epochs - 1, "choose a trial whose last epoch is not its best"


def test_the_scores_of_classes_are_those_of_the_epoch_that_counts(unsteady):
    classes, best = unsteady.result.classes, unsteady.result.epochs[unsteady.result.counted_epoch]

    # Its network was put back and evaluated again.
    assert np.mean(classes.average_precision) == pytest.approx(best.scores["average_precision_macro"], rel=1e-6)
    assert np.mean(classes.f1) == pytest.approx(best.f1_macro, rel=1e-6)
    assert len(classes.names) == len(classes.thresholds) == 19


def test_the_best_network_outlives_an_interruption(unsteady, tmp_path):
    last_epoch = (UNSTEADY.epochs - 1) * READS_PER_EPOCH + 2
    run = Run(open_attempt(tmp_path / "trial", UNSTEADY, hold_at_read=last_epoch))
    os.kill(held_ranks(run.request)[1], signal.SIGTERM)
    release_ranks(run.request)
    paused = run.end()
    assert paused.result.outcome is Outcome.PAUSED, paused

    resumed = ended(tmp_path / "trial", UNSTEADY)

    assert resumed.result.counted_epoch == unsteady.result.counted_epoch
    assert resumed.result.classes == unsteady.result.classes
    assert without_times(resumed.result.epochs) == without_times(unsteady.result.epochs)


def test_a_finished_trial_that_is_started_again_says_the_same(unsteady, tmp_path):
    spec = dataclasses.replace(UNSTEADY, epochs=2)
    first, second = (ended(tmp_path / "trial", spec) for _ in range(2))

    assert second.epochs == ()
    assert second.result.classes == first.result.classes
    assert second.result.counted_epoch == first.result.counted_epoch


def test_a_trial_that_gets_no_better_ends_early_and_is_complete(unsteady, tmp_path):
    patience = 2
    end = ended(tmp_path / "trial", dataclasses.replace(UNSTEADY, patience=patience, epochs=40))

    best = int(np.argmax(scores(end)))
    assert end.result.outcome is Outcome.COMPLETED
    assert end.result.epochs_done == best + patience + 1 < 40
    assert end.result.reason == "no better score in 2 epochs"
    assert TrialDir(tmp_path / "trial").checkpoints()


def test_one_label_is_trained_by_softmax_and_has_a_confusion_matrix(tmp_path):
    write_jpegs(tmp_path / "images")
    spec = tiny_spec(
        epochs=2,
        dataset=ComponentSpec("eurosat", {"path": str(tmp_path / "images")}),
        cache_dir=str(tmp_path / "cache"),
        task=ComponentSpec("single_label", {"label_smoothing": 0.1}),
        objective="accuracy",
    )
    end = ended(tmp_path / "trial", spec)

    assert end.result is not None, end.log_tail
    assert np.sum(end.result.classes.confusion) == sum(end.result.classes.samples) > 0
    assert end.result.epochs[-1].scores["accuracy"] == pytest.approx(
        np.trace(end.result.classes.confusion) / np.sum(end.result.classes.confusion)
    )
    assert end.result.epochs[-1].f1_micro == pytest.approx(end.result.epochs[-1].scores["accuracy"])
