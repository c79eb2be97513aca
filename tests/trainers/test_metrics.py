"""Every score is scikit-learn's, of the same predictions."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn

from storage.protocol.records import SCORES
from tests.storage.protocol.example_records import METRICS
from trainers.metrics import best_epoch, best_threshold, score

# Few of them, so that many samples are equally probable.
PROBABILITIES = st.sampled_from([0.0, 0.1, 0.5, 0.625, 0.75, 1.0])
SHAPES = st.tuples(st.integers(1, 30), st.integers(2, 8))

multi_label = SHAPES.flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.float32, shape, elements=PROBABILITIES))
)
single_label = SHAPES.flatmap(
    lambda shape: st.tuples(
        arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)).map(
            lambda of: np.eye(shape[1], dtype=bool)[of]
        ),
        arrays(np.float32, shape, elements=PROBABILITIES),
    )
)


@pytest.fixture(autouse=True)
def quiet_sklearn():
    """It warns of a class that nobody bears, and takes 0 for its average precision, as we do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def names(class_count: int) -> list[str]:
    return [f"class {number}" for number in range(class_count)]


def check_shared_scores(actual, predicted, probabilities, scores, classes) -> None:
    for average in ("micro", "macro"):
        options = {"average": average, "zero_division": 0}
        assert scores[f"f1_{average}"] == pytest.approx(sklearn.f1_score(actual, predicted, **options))
        assert scores[f"precision_{average}"] == pytest.approx(sklearn.precision_score(actual, predicted, **options))
        assert scores[f"recall_{average}"] == pytest.approx(sklearn.recall_score(actual, predicted, **options))
        expected = sklearn.average_precision_score(actual, probabilities, average=average)
        assert scores[f"average_precision_{average}"] == pytest.approx(expected)
    assert scores["accuracy"] == pytest.approx(sklearn.accuracy_score(actual, predicted))
    for name in ("f1", "precision", "recall"):
        of_each = getattr(sklearn, f"{name}_score")(actual, predicted, average=None, zero_division=0)
        assert getattr(classes, name) == pytest.approx(list(of_each))
    assert classes.average_precision == pytest.approx(
        list(sklearn.average_precision_score(actual, probabilities, average=None))
    )
    assert classes.samples == list(actual.sum(axis=0))
    assert set(scores) <= set(SCORES)


@given(multi_label)
def test_the_scores_of_many_labels_are_those_of_scikit_learn(data):
    actual, probabilities = data
    class_count = actual.shape[1]

    scores, classes = score(actual, probabilities, [0.5] * class_count, names(class_count))

    check_shared_scores(actual, probabilities > 0.5, probabilities, scores, classes)
    assert "accuracy_top5" not in scores
    assert classes.confusion == []


@given(single_label)
def test_the_scores_of_one_label_are_those_of_scikit_learn(data):
    actual, probabilities = data
    class_count = actual.shape[1]
    truth, found = actual.argmax(axis=1), probabilities.argmax(axis=1)

    scores, classes = score(actual, probabilities, [], names(class_count))

    check_shared_scores(actual, np.eye(class_count, dtype=bool)[found], probabilities, scores, classes)
    assert classes.confusion == sklearn.confusion_matrix(truth, found, labels=range(class_count)).tolist()
    if class_count > 5:
        expected = sklearn.top_k_accuracy_score(truth, probabilities, k=5, labels=range(class_count))
        assert scores["accuracy_top5"] == pytest.approx(expected)


@given(multi_label)
def test_no_threshold_has_a_higher_f1_than_the_one_that_is_chosen(data):
    for actual, probability in zip(data[0].T, data[1].T, strict=True):
        # A probability of 0 is never predicted: a threshold is a probability itself.
        if not actual.any() or (actual & (probability == 0)).any():
            continue
        chosen = best_threshold(actual, probability)

        tried = [-1.0, *probability.tolist()]
        best = max(sklearn.f1_score(actual, probability > threshold, zero_division=0) for threshold in tried)
        assert sklearn.f1_score(actual, probability > chosen) == pytest.approx(best)


def test_what_is_not_a_number_is_no_prediction():
    labels = np.array([[True, False], [False, True]])

    scores, _ = score(labels, np.full((2, 2), np.nan, np.float32), [0.5, 0.5], names(2))

    assert scores["f1_micro"] == 0.0
    assert np.isfinite(list(scores.values())).all()


def test_the_best_epoch_is_the_first_of_the_highest_score():
    scores = [0.2, 0.6, 0.4, 0.6]
    history = [dataclasses.replace(METRICS, epoch=i, scores={"accuracy": value}) for i, value in enumerate(scores)]

    assert best_epoch(history, "accuracy") == 1


def test_epochs_of_older_versions_have_two_scores():
    assert METRICS.score("f1_micro") == METRICS.f1_micro
    with pytest.raises(KeyError):
        METRICS.score("accuracy")
