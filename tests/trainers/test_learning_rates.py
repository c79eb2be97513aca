from __future__ import annotations

import math

import numpy as np
import pytest

from storage.protocol.records import ComponentSpec
from trainers import components
from trainers.components import ComponentError
from trainers.learning_rates import constant, cosine, rates_of_updates, steps


def test_a_constant_rate_is_the_optimizers_to_the_last_bit():
    rates = rates_of_updates(constant.build(10), 0.1, 3, 0, 5, 5)

    assert rates.tolist() == [np.float32(0.1)] * 5


def test_a_cosine_begins_after_its_warm_up_and_ends_at_its_share():
    schedule = cosine.build(100, warmup_epochs=20, final_share=0.1)

    assert [schedule.share(epoch) for epoch in (5, 10, 20, 60, 100)] == pytest.approx([0.25, 0.5, 1, 0.55, 0.1])
    assert schedule.share(40) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_steps_cut_the_rate_from_the_beginning_of_their_epochs():
    schedule = steps.build(10, at_epochs=[4, 8], factor=0.5)

    assert [schedule.share(epoch) for epoch in (0.5, 3.99, 4, 7.5, 8, 9.9)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_batch_that_grows_passes_through_the_same_curve_in_fewer_updates():
    schedule = cosine.build(4)
    small, large = (rates_of_updates(schedule, 1.0, 2, 0, updates, updates) for updates in (32, 2))

    assert large.mean() == pytest.approx(small.mean(), rel=1e-2)
    assert small[0] > large[0] > large[1] > small[-1]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("constant", {"warmup_epochs": 10}, r"warmup_epochs=10; it must be at least 0 and below training.epochs=10"),
        ("cosine", {"warmup_epochs": -1}, r"warmup_epochs=-1; it must be at least 0"),
        ("cosine", {"final_share": 2}, r"final_share=2; it must be in \[0, 1\]"),
        ("steps", {"at_epochs": [4, 4]}, r"at_epochs=\[4, 4\]; they must ascend, between 1 and 9"),
        ("steps", {"at_epochs": [10]}, r"at_epochs=\[10\]; they must ascend, between 1 and 9"),
        ("steps", {"at_epochs": [3], "factor": 1}, r"factor=1; it must be between 0 and 1"),
        ("steps", {}, r"needs at_epochs"),
        ("cosine", {"warmup_epochs": "5"}, r"warmup_epochs='5'; it must be of type float"),
        ("cosin", {}, r"there is no 'cosin' among the learning_rates; choose one of constant, cosine, steps"),
    ],
)
def test_an_impossible_schedule_is_refused_with_what_is_possible(name, options, words):
    with pytest.raises(ComponentError, match=words):
        components.build("learning_rates", ComponentSpec(name, options), 10)
