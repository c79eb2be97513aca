"""The test split is scored once, by the network that counts and the thresholds of validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from storage.protocol.attempts import AttemptEnd
from storage.protocol.records import ComponentSpec, ObjectiveEpoch, TrialSpec
from tests.trainers.tiny_trial import DEADLINE_S, TRAIN, VAL, Run, open_attempt, tiny_spec, without_times

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

TEST = 33
"""Shards of 17 and 16 on two ranks."""
PLAIN = tiny_spec(
    epochs=3,
    optimizer=ComponentSpec("sgd", {"learning_rate": 1.0}),
    task=ComponentSpec("multi_label", {"thresholds": "validation"}),
    objective_epoch=ObjectiveEpoch.BEST,
    dataset=ComponentSpec("synthetic_bigearthnet", {"train": TRAIN, "val": VAL, "test": TEST, "size": 8}),
)


def ended(folder: Path, spec: TrialSpec) -> AttemptEnd:
    end = Run(open_attempt(folder, spec)).end()
    assert end.result is not None, end.log_tail
    return end


def test_the_test_split_is_scored_by_the_thresholds_of_validation_and_changes_nothing(tmp_path):
    without, scored = (
        ended(tmp_path / name, dataclasses.replace(PLAIN, test_split=wanted))
        for name, wanted in (("without", False), ("scored", True))
    )
    test = scored.result.test

    assert without.result.test is None
    assert without_times(without.result.epochs) == without_times(scored.result.epochs)
    assert test.samples == TEST
    assert test.classes.thresholds == scored.result.classes.thresholds
    assert max(test.classes.samples) <= TEST
    assert np.mean(test.classes.f1) == pytest.approx(test.scores["f1_macro"])
    assert test.scores != scored.result.epochs[-1].scores


def test_a_completed_trial_that_is_started_again_scores_the_same(tmp_path):
    spec = dataclasses.replace(PLAIN, test_split=True)
    first, second = (ended(tmp_path / "trial", spec) for _ in range(2))

    assert second.epochs == ()
    assert second.result.test == first.result.test
