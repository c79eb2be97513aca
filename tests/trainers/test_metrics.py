from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score

from trainers.metrics import ClassCounts

labels_and_predictions = st.tuples(st.integers(1, 30), st.integers(2, 8)).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)


@given(labels_and_predictions)
def test_the_scores_are_those_of_scikit_learn(data):
    actual, predicted = data

    counts = count(actual, predicted)

    # zero_division: a class that neither occurs nor is predicted counts as 0.
    assert counts.f1_micro == pytest.approx(f1_score(actual, predicted, average="micro", zero_division=0))
    assert counts.f1_macro == pytest.approx(f1_score(actual, predicted, average="macro", zero_division=0))


def test_the_score_of_summed_counts_is_not_the_mean_of_the_ranks_scores():
    actual = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    predicted = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], bool)
    of_ranks = [count(actual[rank::2], predicted[rank::2]) for rank in (0, 1)]

    summed = ClassCounts(
        *(sum(getattr(counts, name) for counts in of_ranks) for name in ClassCounts.__dataclass_fields__)
    )

    for average in ("micro", "macro"):
        expected = f1_score(actual, predicted, average=average, zero_division=0)
        assert getattr(summed, f"f1_{average}") == pytest.approx(expected)
        assert np.mean([getattr(counts, f"f1_{average}") for counts in of_ranks]) != pytest.approx(expected)


def count(actual: np.ndarray, predicted: np.ndarray) -> ClassCounts:
    return ClassCounts(
        true_positives=(actual & predicted).sum(axis=0),
        false_positives=(~actual & predicted).sum(axis=0),
        false_negatives=(actual & ~predicted).sum(axis=0),
    )
