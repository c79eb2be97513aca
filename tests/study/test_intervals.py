"""The interval of a mean over seeds is SciPy's, and one seed has none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from study.intervals import over_seeds


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_mean_deviation_and_interval_are_scipys(count):
    values = np.random.default_rng(count).uniform(0.6, 0.9, count)

    interval = over_seeds(list(values))

    expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval.seeds == count
    assert interval.mean == pytest.approx(values.mean(), rel=1e-12)
    assert interval.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)


def test_nineteen_of_twenty_intervals_hold_the_true_mean():
    random = np.random.default_rng(0)
    intervals = [over_seeds(list(random.normal(0.7, 0.05, 4))) for _ in range(2000)]

    share = np.mean([each.low <= 0.7 <= each.high for each in intervals])

    assert share == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_neither_deviation_nor_interval():
    interval = over_seeds([0.75])

    assert (interval.seeds, interval.mean) == (1, 0.75)
    assert (interval.deviation, interval.low, interval.high) == (None, None, None)


def test_seeds_that_agree_have_an_interval_of_no_width():
    interval = over_seeds([0.5, 0.5, 0.5])

    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)
