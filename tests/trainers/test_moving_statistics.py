"""What batch normalisation evaluates with, after the batch has grown."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from storage.protocol.attempts import AttemptEnd
from storage.protocol.records import ComponentSpec, MovingStatistics, Outcome, TrialSpec
from tests.trainers.tiny_trial import (
    DEADLINE_S,
    READS_PER_EPOCH,
    Run,
    held_ranks,
    open_attempt,
    release_ranks,
    tiny_spec,
    without_times,
)
from trainers.batch_normalisation import FusedBatchNormalization

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)


def spec_of(statistics: MovingStatistics) -> TrialSpec:
    # Keras' momentum, of which 24 updates of 8 samples and 6 of 16 leave most of the old statistics.
    model = ComponentSpec("small_resnet", {"width": 4, "blocks": [1], "batch_norm_momentum": 0.99, "dropout_rate": 0.2})
    return tiny_spec(moving_statistics=statistics, model=model)


def trained(folder: Path, spec: TrialSpec) -> AttemptEnd:
    end = Run(open_attempt(folder, spec)).end()
    assert end.result is not None, end.log_tail
    return end


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[MovingStatistics, AttemptEnd]:
    folder = tmp_path_factory.mktemp("statistics")
    return {statistics: trained(folder / statistics, spec_of(statistics)) for statistics in MovingStatistics}


def losses(end: AttemptEnd, name: str) -> list[float]:
    return [getattr(metrics, name) for metrics in end.result.epochs]


def test_no_choice_changes_what_is_trained(ends):
    expected = losses(ends[MovingStatistics.MOVING], "train_loss")

    for end in ends.values():
        assert losses(end, "train_loss") == expected


def test_a_scaled_momentum_is_the_layers_own_until_the_switch(ends):
    moving, scaled = (losses(ends[choice], "val_loss") for choice in (MovingStatistics.MOVING, MovingStatistics.SCALED))

    assert scaled[:2] == moving[:2]
    assert scaled[2] != moving[2]


def test_recalibrated_statistics_are_those_of_the_training_samples(ends):
    stale = losses(ends[MovingStatistics.MOVING], "val_loss")
    fresh = losses(ends[MovingStatistics.RECALIBRATED], "val_loss")

    # Of 24 updates at 0.99 the moving averages hold a fifth of what they should; the network is far from what it was
    # trained as.
    assert fresh[0] < stale[0]
    assert all(one != other for one, other in zip(fresh, stale, strict=True))


@pytest.mark.parametrize("statistics", [MovingStatistics.SCALED, MovingStatistics.RECALIBRATED])
def test_a_trial_paused_after_the_switch_goes_on_as_if_nothing_had_happened(ends, statistics, tmp_path):
    in_the_last_epoch = 3 * _reads_of(statistics) + 2
    run = Run(open_attempt(tmp_path / "trial", spec_of(statistics), hold_at_read=in_the_last_epoch))
    os.kill(held_ranks(run.request)[1], signal.SIGTERM)
    release_ranks(run.request)
    paused = run.end()
    assert paused.result.outcome is Outcome.PAUSED, paused
    assert paused.result.epochs_done == 3

    resumed = trained(tmp_path / "trial", spec_of(statistics))

    assert without_times(resumed.result.epochs) == without_times(ends[statistics].result.epochs)
    assert resumed.result.classes == ends[statistics].result.classes


def _reads_of(statistics: MovingStatistics) -> int:
    """Loader batches of a rank in an epoch; recalibration reads the training samples once more."""
    return READS_PER_EPOCH + 6 * (statistics is MovingStatistics.RECALIBRATED)


def test_a_momentum_to_a_power_moves_as_far_in_one_update_as_the_layers_own_in_many():
    batch = tf.constant(np.random.default_rng(0).normal(3, 2, (64, 5)), tf.float32)
    small, large = (FusedBatchNormalization(momentum=0.9) for _ in range(2))

    for _ in range(4):
        small(batch, training=True)
    large.build(batch.shape)
    large.current_momentum.assign(0.9**4)
    large(batch, training=True)

    np.testing.assert_allclose(large.moving_mean, small.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(large.moving_variance, small.moving_variance, rtol=1e-5)


def test_a_spec_of_an_older_version_has_moving_averages():
    fields = {field.name: field.default for field in dataclasses.fields(TrialSpec)}

    assert fields["moving_statistics"] is MovingStatistics.MOVING
