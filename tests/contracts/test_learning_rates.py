"""What the trainer asks of every learning-rate schedule. They are found by themselves, as the driver finds them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.protocol.records import ComponentSpec
from tests.contracts import subjects
from tests.contracts.learning_rate_examples import EXAMPLES
from trainers import components
from trainers.learning_rates import LearningRate, rates_of_updates

EPOCHS = 30
CASES = [
    (name, options)
    for name in subjects.names("learning_rate")
    for options in ([subjects.options_of(name)] if subjects.is_own(name) else EXAMPLES.get(name, []))
]

every_schedule = pytest.mark.parametrize(("name", "options"), CASES)
places = st.floats(0, EPOCHS, exclude_min=True, exclude_max=True)


@pytest.mark.parametrize("name", subjects.names("learning_rate"))
def test_there_is_an_example(name):
    assert EXAMPLES.get(name) or subjects.is_own(name), (
        f"add {name!r} to EXAMPLES in tests/contracts/learning_rate_examples.py"
    )


@every_schedule
@given(places)
def test_every_share_is_one_of_the_rate_and_the_same_when_asked_again(name, options, place):
    share = build(name, options).share(place)

    assert 0 <= share <= 1
    assert build(name, options).share(place) == share


@every_schedule
@given(st.integers(0, EPOCHS - 1), st.integers(1, 500))
def test_no_update_has_a_rate_of_zero_or_none(name, options, epoch, updates):
    rates = rates_of_updates(build(name, options), 0.1, epoch, 0, updates, updates)

    assert all(0 < rate <= 0.1 + 1e-6 and math.isfinite(rate) for rate in rates)


@every_schedule
@given(st.integers(0, EPOCHS - 1), st.integers(2, 200), st.data())
def test_an_epoch_that_is_taken_up_in_its_middle_goes_on_with_the_same_rates(name, options, epoch, updates, data):
    schedule, first = build(name, options), data.draw(st.integers(1, updates - 1))

    whole = rates_of_updates(schedule, 0.1, epoch, 0, updates, updates)

    assert rates_of_updates(schedule, 0.1, epoch, first, updates - first, updates).tolist() == whole[first:].tolist()


def build(name: str, options: dict[str, Any]) -> LearningRate:
    return components.build("learning_rates", ComponentSpec(name, options), EPOCHS)
