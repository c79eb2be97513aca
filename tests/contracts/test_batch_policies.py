"""What the trainer asks of every batch policy. The policies are found by themselves, as the driver finds them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.protocol.records import ComponentSpec, EpochMetrics
from tests.contracts import subjects
from tests.contracts.batch_policy_examples import EXAMPLES
from trainers import components
from trainers.batch_policies import BatchPolicy

EPOCHS = 30
CASES = [
    (name, options)
    for name in subjects.names("batch_policy")
    for options in ([subjects.options_of(name)] if subjects.is_own(name) else EXAMPLES.get(name, []))
]

every_policy = pytest.mark.parametrize(("name", "options"), CASES)
losses = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=EPOCHS, max_size=EPOCHS)


@pytest.mark.parametrize("name", subjects.names("batch_policy"))
def test_there_is_an_example(name):
    assert EXAMPLES.get(name) or subjects.is_own(name), (
        f"add {name!r} to EXAMPLES in tests/contracts/batch_policy_examples.py"
    )


@every_policy
def test_the_declared_sizes_ascend(name, options):
    sizes = build(name, options).global_batch_sizes

    assert sizes
    assert sizes[0] > 0
    assert all(smaller < larger for smaller, larger in pairwise(sizes))


@every_policy
@given(losses)
def test_every_epoch_has_one_of_the_declared_sizes(name, options, epoch_losses):
    policy = build(name, options)

    # Only these are checked and compiled before epoch 0.
    assert set(sizes_of_epochs(policy, epoch_losses)) <= set(policy.global_batch_sizes)


@every_policy
@given(losses, st.integers(0, EPOCHS - 1))
def test_a_policy_built_anew_in_mid_training_goes_on_as_if_nothing_had_happened(
    name, options, epoch_losses, resumed_at
):
    uninterrupted = sizes_of_epochs(build(name, options), epoch_losses)
    past = [metrics(epoch, uninterrupted[epoch], epoch_losses[epoch]) for epoch in range(resumed_at)]

    assert build(name, options).global_batch_size(resumed_at, past) == uninterrupted[resumed_at]


@every_policy
@given(losses)
def test_asking_again_gives_the_same_size_and_leaves_the_history_alone(name, options, epoch_losses):
    policy = build(name, options)
    past = [metrics(epoch, policy.global_batch_sizes[0], epoch_losses[epoch]) for epoch in range(5)]
    before = list(past)

    answers = {policy.global_batch_size(5, past) for _ in range(3)}

    assert len(answers) == 1
    assert past == before


def build(name: str, options: dict[str, Any]) -> BatchPolicy:
    return components.build("batch_policies", ComponentSpec(name, options))


def sizes_of_epochs(policy: BatchPolicy, epoch_losses: list[float]) -> list[int]:
    history: list[EpochMetrics] = []
    for epoch, loss in enumerate(epoch_losses):
        history.append(metrics(epoch, policy.global_batch_size(epoch, history), loss))
    return [past.global_batch_size for past in history]


def metrics(epoch: int, global_batch_size: int, loss: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        train_loss=loss,
        val_loss=loss,
        f1_micro=0.5,
        f1_macro=0.4,
        global_batch_size=global_batch_size,
        learning_rate=0.1,
        updates=10,
        samples=100,
        samples_per_s=100.0,
        first_batch_s=0.1,
        wall_s=1.0,
    )
