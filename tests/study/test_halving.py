"""Successive halving by itself: who goes on, by the records alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.halving import (
    RungRecord,
    bracket_of,
    bracket_sizes,
    default_first_rung,
    default_rungs,
    goes_on,
    is_promotable,
    last_resort,
    next_promotion,
)


def records(*values: float, rung: int = 0, first: int = 0) -> list[RungRecord]:
    return [RungRecord(first + number, 0, rung, value) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("epochs", "factor", "rungs"),
    [(100, 3, (4, 12, 36)), (27, 3, (1, 3, 9)), (6, 3, (1, 3)), (2, 3, (1,)), (100, 4, (2, 8, 32)), (10, 2, (2, 4, 8))],
)
def test_by_default_there_are_about_three_rungs_before_the_last_epoch(epochs, factor, rungs):
    assert default_rungs(default_first_rung(factor, epochs), factor, epochs) == rungs


def test_without_others_to_compare_it_with_only_the_best_trial_goes_on():
    assert goes_on(records(0.1), records(0.1)[-1], factor=3)
    assert not goes_on(records(0.2, 0.1), records(0.2, 0.1)[-1], factor=3)
    assert goes_on(records(0.2, 0.1, 0.3), records(0.2, 0.1, 0.3)[-1], factor=3)


def test_the_best_third_goes_on():
    values = (0.9, 0.1, 0.2, 0.3, 0.4, 0.5)

    assert goes_on(records(*values), records(*values)[-1], factor=3)
    assert not goes_on(records(*values), records(*values)[-2], factor=3)


def test_a_trial_that_can_wait_is_not_promoted_before_there_are_enough_others():
    assert not is_promotable(records(0.9, 0.1), records(0.9, 0.1)[0], factor=3)
    assert is_promotable(records(0.9, 0.1, 0.2), records(0.9, 0.1, 0.2)[0], factor=3)


def test_of_equal_values_the_first_one_goes_on():
    equal = records(0.5, 0.5, 0.5)

    assert [is_promotable(equal, record, factor=3) for record in equal] == [True, False, False]


def test_a_score_that_is_not_a_number_is_the_worst():
    assert not goes_on(records(0.0, float("nan")), RungRecord(1, 0, 0, float("nan")), factor=2)


def test_a_trial_of_a_higher_rung_is_promoted_before_a_better_one_of_a_lower_rung():
    known = [*records(0.9, 0.8, 0.7, 0.6), *records(0.2, 0.1, rung=1)]

    assert next_promotion(known, held=[0, 1, 2, 3], factor=2) == RungRecord(0, 0, 1, 0.2)


def test_trials_of_other_brackets_and_rungs_are_not_compared():
    known = [RungRecord(0, 1, 0, 0.9), RungRecord(1, 0, 1, 0.9), RungRecord(2, 0, 0, 0.1)]

    assert goes_on(known, known[-1], factor=2)


def test_only_held_trials_are_promoted_and_none_where_none_is_good_enough():
    known = records(0.9, 0.1, 0.2)

    assert next_promotion(known, held=[1, 2], factor=3) is None
    assert next_promotion(known, held=[], factor=3) is None


def test_where_nobody_is_good_enough_the_best_of_the_highest_rung_is_the_last_resort():
    known = [*records(0.9, 0.8), *records(0.3, rung=1)]

    assert last_resort(known, held=[0, 1]) == RungRecord(0, 0, 1, 0.3)
    assert last_resort(known, held=[1]) == RungRecord(1, 0, 0, 0.8)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(2, 5))
def test_of_a_rung_no_more_than_its_share_is_ever_promoted(values, factor):
    """Each trial is promoted as soon as it may be, as a study does."""
    known: list[RungRecord] = []
    held: set[int] = set()
    promoted = 0
    for record in records(*values):
        known.append(record)
        held.add(record.trial)
        while (best := next_promotion(known, sorted(held), factor)) is not None:
            held.remove(best.trial)
            promoted += 1
    # A trial that was among the best at its time stays promoted when better ones come.
    assert promoted >= len(values) // factor
    assert all(is_promotable(known, record, factor) is False for record in known if record.trial in held)


def test_brackets_get_trials_so_that_each_trains_for_about_as_many_epochs():
    assert bracket_sizes(3, factor=3) == (9, 5, 3)
    assert [bracket_of(draw, (9, 5, 3)) for draw in (0, 8, 9, 13, 14, 16, 17)] == [0, 0, 1, 1, 2, 2, 0]
