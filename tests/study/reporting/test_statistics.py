"""Estimates and intervals, held against SciPy, scikit-learn and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import top_k_accuracy_score

from study.reporting import statistics
from study.reporting.statistics import Correlation, Estimate

DRAWS = np.random.default_rng(11)


def test_the_mean_over_seeds_has_students_interval():
    values = [0.70, 0.72, 0.75, 0.71]

    estimate = statistics.mean_over_seeds(values)

    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert estimate.value == pytest.approx(0.72)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert statistics.mean_over_seeds([0.7]) == Estimate(0.7)


def test_the_interval_of_a_mean_difference_is_near_students_where_both_hold():
    differences = DRAWS.normal(0.01, 0.02, 60).tolist()

    estimate = statistics.mean_difference(differences)

    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert estimate.value == pytest.approx(np.mean(differences))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_the_interval_of_a_mean_difference_covers_the_truth_about_as_often_as_it_says():
    samples = np.random.default_rng(3).exponential(1.0, size=(60, 30))

    covered = sum(statistics.mean_difference(sample.tolist()).contains(1.0) for sample in samples)

    # 95 % of 60 are 57; fewer than 50 or all but never missing would be another interval.
    assert covered >= 50


def test_the_ratio_of_means_is_of_means_and_resamples_the_pairs_together():
    fast = DRAWS.uniform(10, 100, 20)
    slow = 2.5 * fast

    estimate = statistics.ratio_of_means(slow.tolist(), fast.tolist())

    # Every pair has the same ratio: unpaired resampling would have a wide interval.
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.5, 2.5, 2.5))


@pytest.mark.parametrize(
    ("kind", "reference"), [(Correlation.SPEARMAN, stats.spearmanr), (Correlation.KENDALL, stats.kendalltau)]
)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=15))
def test_a_rank_correlation_is_scipys_ties_included(kind, reference, pairs):
    first, second = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]

    estimate = statistics.rank_correlation(first, second, kind)

    if len(set(first)) == 1 or len(set(second)) == 1:
        assert estimate is None
    else:
        assert estimate is not None
        assert estimate.value == pytest.approx(reference(first, second).statistic)
        assert estimate.low is not None
        assert -1 - 1e-9 <= estimate.low <= estimate.high <= 1 + 1e-9


def test_the_interval_of_a_rank_correlation_is_the_percentile_bootstraps():
    first = DRAWS.normal(size=20)
    second = first + DRAWS.normal(size=20)

    estimate = statistics.rank_correlation(first.tolist(), second.tolist(), Correlation.SPEARMAN)

    draws = np.random.default_rng(99).integers(0, 20, size=(2000, 20))
    resampled = [stats.spearmanr(first[draw], second[draw]).statistic for draw in draws]
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.05)


def test_few_or_equal_values_have_no_rank_correlation():
    assert statistics.rank_correlation([1, 2], [1, 2], Correlation.SPEARMAN) is None
    assert statistics.rank_correlation([1, 1, 1], [1, 2, 3], Correlation.SPEARMAN) is None


def test_fewer_than_three_differences_have_no_interval_and_equal_ones_a_point():
    assert statistics.mean_difference([0.1, 0.2]) == Estimate(pytest.approx(0.15))
    assert statistics.mean_difference([0.1, 0.1, 0.1]) == Estimate(*[pytest.approx(0.1)] * 3)


def test_top_agreement_is_top_k_accuracy_of_the_winner():
    # With k of the second arm, the share of winners of the first among them.
    for seed in range(20):
        first, second = np.random.default_rng(seed).permutation(8), np.random.default_rng(seed + 100).permutation(8)
        winner = [int(np.argmax(first))]
        expected = top_k_accuracy_score(winner, [second], k=3, labels=list(range(8)))

        in_top_3 = statistics.top_agreement(
            [float(index == winner[0]) for index in range(8)], second.astype(float).tolist(), 1
        )
        assert in_top_3 == int(np.argmax(second) == winner[0])
        shared = statistics.top_agreement(first.tolist(), second.tolist(), 3)
        assert shared == len(set(np.argsort(-first)[:3]) & set(np.argsort(-second)[:3]))
        assert expected in (0.0, 1.0)


def test_of_three_configurations_the_top_three_say_nothing():
    assert statistics.top_agreement([3, 2, 1], [1, 2, 3], 3) is None
    assert statistics.top_agreement([3, 2, 1], [1, 2, 3], 1) == 0


def test_a_difference_as_large_as_the_detectable_one_is_found_in_about_four_of_five_cases():
    deviation, pairs = 0.02, 24
    sample = DRAWS.normal(0, 1, pairs)
    scaled = (deviation * (sample - sample.mean()) / sample.std(ddof=1)).tolist()
    detectable = statistics.detectable_difference(scaled)

    trials = np.random.default_rng(8).normal(detectable, deviation, size=(2000, pairs))
    found = np.mean(stats.ttest_1samp(trials, 0, axis=1).pvalue < 0.05)

    assert found == pytest.approx(0.8, abs=0.03)


def test_a_trial_that_ended_early_does_not_shorten_the_band():
    bands = statistics.bands([[1.0, 2.0, 3.0], [3.0], [2.0, None, 5.0]])

    assert [band.count for band in bands] == [3, 1, 2]
    assert [band.mean for band in bands] == [2.0, 2.0, 4.0]
    assert bands[0].low == pytest.approx(np.percentile([1, 2, 3], 10))


def test_an_epoch_without_a_value_has_no_band():
    assert statistics.bands([[None, 1.0]])[0] is None
    assert statistics.bands([]) == []


def test_the_same_numbers_give_the_same_interval():
    values = DRAWS.normal(size=12).tolist()

    assert statistics.mean_difference(values) == statistics.mean_difference(values)


@pytest.mark.parametrize("estimate", [statistics.mean_over_seeds, statistics.mean_difference])
def test_nothing_has_no_mean(estimate):
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_without_an_interval_nothing_is_ruled_out():
    assert Estimate(1.0).contains(0.0)
    assert Estimate(1.0).overlaps(Estimate(5.0, 4.9, 5.1))
    assert not Estimate(1.0, 0.9, 1.1).overlaps(Estimate(5.0, 4.9, 5.1))
    assert not math.isnan(Estimate(1.0).value)
