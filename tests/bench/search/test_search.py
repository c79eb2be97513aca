"""That the simulated and the measured searches of docs/results/search.md are what they say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.halving import RungRecord, goes_on, is_promotable, next_promotion
from tests.bench.search.simulated import Curves, Machine, Method, Rungs, times_to_target
from tests.bench.search.timeline import Attempt, Search

CURVES = Curves(scores=((0.1, 0.2, 0.3), (0.3, 0.5, 0.6), (0.2, 0.6, 0.9)), seconds=(2.0, 1.0, 1.0))


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), max_size=40), st.integers(2, 4))
def test_sorted_rungs_decide_as_the_study_does(reached, factor):
    rungs, records = Rungs(factor), []
    for number, (rung, value) in enumerate(reached):
        place = rungs.reach(number, rung, value)
        records.append(RungRecord(number, 0, rung, value))

        assert rungs.goes_on(rung, place) == goes_on(records, records[-1], factor)
        assert rungs.is_promotable(rung, place) == is_promotable(records, records[-1], factor)

    held = [record for record in records if record.trial % 2]
    promoted = next_promotion(records, [record.trial for record in held], factor)
    expected = None if promoted is None else (promoted.trial, promoted.rung)
    assert rungs.next_promotion({(record.trial, record.rung) for record in held}) == expected


def test_random_search_takes_as_many_rounds_of_whole_trials_as_it_has_to():
    times = times_to_target(CURVES, Method("random"), Machine(), searches=300)

    assert {time % 1 for time in times} == {0.0}
    # Six trials at once, of which each is the best one with a chance of a third.
    assert sum(times) / len(times) == pytest.approx(1 / (1 - (2 / 3) ** 6), rel=0.05)


def test_twice_the_nodes_are_twice_the_efficiency_as_fast():
    machine = Machine(efficiency=0.8)

    assert machine.speed(4) == 1.0
    assert machine.speed(8) == pytest.approx(1.6)
    assert machine.speed(1) == pytest.approx(1 / 1.6**2)


def test_a_trial_that_grows_goes_on_when_its_nodes_are_free():
    growing = Method("growing", rungs=(1,), promotes=True, nodes_by_rung=(1, 4), factor=2)

    [time] = times_to_target(CURVES, growing, Machine(efficiency=1.0, restart=0.25), searches=1)

    # Half of a trial on one node, then the restart and the other half on four.
    assert time >= 0.5 * 4 + 0.25 + 0.5
    assert math.isfinite(time)


def test_what_a_search_had_spent_when_it_was_as_good():
    search = Search("asha", 0, (Attempt(1, None), Attempt(3, 0.5), Attempt(3, 0.4), Attempt(3, 0.7)))

    assert search.best == 0.7
    assert search.cost_to_reach(0.5) == 4
    assert search.cost_to_reach(0.8) is None
    assert search.best_within(7) == 0.5


def test_a_search_gives_up_on_a_curve_that_its_rungs_never_let_pass():
    late = Curves(((0.1, 0.9), (0.2, 0.3), (0.2, 0.3), (0.2, 0.3)), (1.0, 1.0))

    times = times_to_target(late, Method("asha", (1,)), Machine(), searches=20, patience=5.0)

    # Its first trials have nobody to be compared with.
    assert min(times) < math.inf
    assert max(times) == math.inf
