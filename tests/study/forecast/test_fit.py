"""What is read out of measured times: costs that are known are found again, and what cannot be known is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.forecast.fit import CostFit, Estimate, TooFewMeasurementsError
from study.forecast.performance_model import Placement, UpdateCosts, update_factors, update_s

ONE, TWO, TWO_NODES, FOUR_NODES = Placement(1), Placement(2), Placement(2, 2), Placement(4, 4)
BATCHES = (8, 32, 128)
COST = st.floats(1e-5, 10.0)
COSTS = st.builds(UpdateCosts, COST, COST, COST, COST, COST)


def measure(
    costs: UpdateCosts, placements: tuple[Placement, ...], noise: float = 0.0, seed: int = 0, each: int = 2
) -> CostFit:
    """Fit to synthetic updates, each of whose times is off by `noise`, relatively, one standard deviation."""
    random = np.random.default_rng(seed)
    points = [(place, batch) for place in placements for batch in BATCHES for _ in range(each)]
    times_s = [update_s(costs, *point) * math.exp(noise * random.standard_normal()) for point in points]
    return CostFit.of([update_factors(*point) for point in points], times_s)


@given(COSTS)
@settings(deadline=None)
def test_known_costs_are_found_again(costs):
    fit = measure(costs, (ONE, TWO, TWO_NODES, FOUR_NODES))
    expected = update_s(costs, far := Placement(1024, 256), 512)

    found = fit.predict(update_factors(far, 512))

    assert found.expected == pytest.approx(expected, rel=1e-3)
    assert found.low <= found.expected <= found.high
    assert found.high <= expected * 1.01


@given(COSTS, st.integers(0, 2**31))
@settings(deadline=None)
def test_no_cost_comes_out_negative_and_no_interval_inside_out(costs, seed):
    fit = measure(costs, (ONE, TWO_NODES), noise=0.3, seed=seed)
    found = fit.predict(update_factors(Placement(16, 4), 64))

    assert min(fit.costs) >= 0
    assert 0 <= found.low <= found.expected <= found.high


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_interval_holds_the_time_of_another_update_as_often_as_it_says(noise):
    costs, place = UpdateCosts(0.02, 0.001, 0.003, 0.4, 0.005), Placement(16, 8)
    covered, tries = 0, 400
    for seed in range(tries):
        fit = measure(costs, (ONE, TWO, TWO_NODES, FOUR_NODES), noise, seed)
        seen = update_s(costs, place, 64) * math.exp(noise * np.random.default_rng(tries + seed).standard_normal())
        found = fit.predict(update_factors(place, 64))
        covered += found.low <= seen <= found.high

    assert 0.92 <= covered / tries <= 0.98


def test_what_was_measured_alike_is_known_though_its_parts_are_not():
    costs, place = UpdateCosts(0.02, 0.001, 0.003, 0.4), Placement(16, 4)

    found = measure(costs, (place,)).predict(update_factors(place, 64))

    assert (found.low, found.high) == pytest.approx((update_s(costs, place, 64),) * 2, rel=1e-3)


@pytest.mark.parametrize("measured", [(ONE, TWO_NODES), (ONE, TWO, TWO_NODES)])
def test_what_measurements_do_not_tell_apart_widens_the_interval_from_one_extreme_to_the_other(measured):
    # On two nodes alone, a latency cannot be told from a slow link; two ranks of one node say nothing of a network.
    costs, place = UpdateCosts(0.0, 1e-4, 0.0, 1.0), Placement(16, 16)

    found = measure(costs, measured).predict(update_factors(place, 1))

    assert found.low == pytest.approx(2 * 15 / 16, rel=0.01)
    assert found.high == pytest.approx(4 * 1.0, rel=0.01)


def test_a_cost_that_nothing_measured_leaves_no_bound():
    fit = measure(UpdateCosts(0.02, 0.001, 0.003, 0.4), (ONE,))

    assert not fit.predict(update_factors(TWO_NODES, 8)).is_bounded
    assert fit.predict(update_factors(ONE, 64)).is_bounded


def test_a_slow_epoch_counts_as_much_as_a_quick_one():
    # What a study costs is the sum of its epochs, of which the mean is the mean.
    fit = CostFit.of([update_factors(ONE, 8)] * 4, [1.0, 1.0, 1.0, 5.0])

    assert fit.predict(update_factors(ONE, 8)).expected == pytest.approx(2.0, rel=1e-6)


def test_measurements_that_contradict_one_another_bound_nothing():
    fit = CostFit.of([update_factors(ONE, 8)] * 2 + [update_factors(ONE, 16)] * 2, [1e-4, 100.0, 1e-4, 100.0])
    alone = CostFit.of([update_factors(ONE, 8)] * 2, [1e-4, 100.0])

    assert fit.predict(update_factors(ONE, 8)).high > 100.0
    assert not alone.predict(update_factors(ONE, 8)).is_bounded


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_measurements_are_refused(count):
    with pytest.raises(TooFewMeasurementsError, match=f"{count} measurements for"):
        CostFit.of([update_factors(ONE, 8)] * count, [0.1] * count)


def test_of_several_possible_ones_the_estimate_reaches_from_the_least_to_the_most():
    assert Estimate.spanning([Estimate(1, 2, 3), Estimate(2, 6, 7)]) == Estimate(1, 4, 7)
