"""A trial whose ranks become more: one, then two, then four real ones, against one that trains alone to the end."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest

from storage.protocol.attempts import AttemptEnd, merge_epochs
from storage.protocol.records import BatchScaling, ComponentSpec, EpochMetrics, Outcome, RankGrowth
from storage.protocol.trial_dir import TrialDir
from tests.trainers.tiny_trial import DEADLINE_S, SMALL, TRAIN, Run, open_attempt, tiny_spec
from trainers.loader import training_order

pytestmark = pytest.mark.timeout(6 * DEADLINE_S)

EPOCHS = 3
# Batch normalisation sees the samples of one rank, and dropout is each rank's own: neither is independent of the ranks.
ALONE = tiny_spec(
    world_size=1,
    epochs=EPOCHS,
    model=ComponentSpec("small_resnet", {"width": 4, "blocks": [1], "normalisation": "none"}),
    batch_policy=ComponentSpec("constant", {"global_batch_size": SMALL}),
)
GROWING = dataclasses.replace(
    ALONE, growth=(RankGrowth(1, 2), RankGrowth(2, 4)), batch_scaling=BatchScaling.GLOBAL, loader_batch_size=SMALL
)
# A sum over other groups of samples is rounded otherwise; 36 updates carry that on.
TOLERANCE = 1e-5


class Grown(NamedTuple):
    trial: TrialDir
    ends: list[AttemptEnd]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Grown:
    trial_dir = tmp_path_factory.mktemp("alone")
    return Grown(TrialDir(trial_dir), [Run(open_attempt(trial_dir, ALONE)).end()])


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Grown:
    """One rank comes a second time, when there should be two."""
    trial_dir = tmp_path_factory.mktemp("grown")
    # Four ranks share two cores.
    ends = [Run(open_attempt(trial_dir, GROWING, ranks=ranks)).end(3 * DEADLINE_S) for ranks in (1, 1, 2, 4)]
    return Grown(TrialDir(trial_dir), ends)


def test_ranks_end_as_held_with_a_checkpoint_where_an_epoch_takes_more_of_them(grown):
    results = [end.result for end in grown.ends]

    assert [(result.outcome, result.epochs_done) for result in results if result] == [
        (Outcome.HELD, 1),
        (Outcome.HELD, 1),
        (Outcome.HELD, 2),
        (Outcome.COMPLETED, 3),
    ]
    assert [end.communicator.world_size for end in grown.ends if end.communicator] == [1, 1, 2, 4]


def test_ranks_of_the_wrong_number_train_nothing_and_say_how_far_the_trial_is(grown):
    first, wrong = grown.ends[:2]

    assert wrong.epochs == ()
    assert wrong.result is not None
    assert wrong.result.epochs == first.epochs
    assert wrong.result.reason == "epoch 1 takes 2 ranks"


def test_a_trial_whose_ranks_become_more_learns_what_one_rank_learns(alone, grown):
    expected, found = merge_epochs(alone.ends), merge_epochs(grown.ends)

    assert [metrics.samples for metrics in found] == [TRAIN] * EPOCHS
    assert [metrics.updates for metrics in found] == [metrics.updates for metrics in expected] == [12] * EPOCHS
    assert losses(found) == pytest.approx(losses(expected), rel=TOLERANCE)
    for name, weights in shared_state(alone).items():
        np.testing.assert_allclose(shared_state(grown)[name], weights, rtol=0, atol=TOLERANCE, err_msg=name)


def test_every_update_has_the_same_samples_whatever_the_number_of_ranks():
    samples, batch_size = 101, 8

    def updates_of(world_size: int) -> list[list[int]]:
        local = batch_size // world_size
        orders = [training_order(samples, 1, 5, rank, world_size) for rank in range(world_size)]
        count = samples // world_size // local
        return [sorted(int(i) for order in orders for i in order[update * local :][:local]) for update in range(count)]

    assert updates_of(1) == updates_of(2) == updates_of(4) == updates_of(8)
    assert len(updates_of(1)) == samples // batch_size


def losses(epochs: list[EpochMetrics]) -> list[float]:
    return [loss for metrics in epochs for loss in (metrics.train_loss, metrics.val_loss)]


def shared_state(trained: Grown) -> dict[str, np.ndarray]:
    """Weights and the optimizer's variables, of the newest checkpoint."""
    with np.load(trained.trial.checkpoints()[0]) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("shared/")}
