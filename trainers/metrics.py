"""Scores of a classifier over all predictions at once, each by scikit-learn's definition.

Ranks start without scikit-learn, whose import costs each of them a second (trainers/lean_imports.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.protocol.records import ClassScores, EpochMetrics

_TOP = 5


def score(
    labels: NDArray[np.bool_],
    probabilities: NDArray[np.float32],
    thresholds: Sequence[float],
    class_names: Sequence[str],
) -> tuple[dict[str, float], ClassScores]:
    """All scores by the names of storage.protocol.records.SCORES, and those of each class.

    A score whose denominator is 0 counts as 0, as a class that neither occurs nor is predicted.

    Args:
        labels: [n, classes], n above 0.
        probabilities: [n, classes]; what is not a number counts as 0.
        thresholds: Of each class, the probability above which it is predicted. Empty: each sample bears one label, and
            its most probable class is predicted.
    """
    probabilities = np.nan_to_num(probabilities)
    predicted = predict_labels(probabilities, thresholds)
    hits = (labels & predicted).sum(axis=0)
    of_class: dict[str, NDArray[np.float64]] = {
        "precision": _ratio(hits, predicted.sum(axis=0)),
        "recall": _ratio(hits, labels.sum(axis=0)),
        "f1": _ratio(2 * hits, predicted.sum(axis=0) + labels.sum(axis=0)),
        "average_precision": np.array(
            [average_precision(*of_one) for of_one in zip(labels.T, probabilities.T, strict=True)]
        ),
    }
    micro: dict[str, Any] = {
        "precision": _ratio(hits.sum(), predicted.sum()),
        "recall": _ratio(hits.sum(), labels.sum()),
        "f1": _ratio(2 * hits.sum(), predicted.sum() + labels.sum()),
        "average_precision": average_precision(labels.ravel(), probabilities.ravel()),
    }
    scores = {f"{name}_micro": float(value) for name, value in micro.items()}
    scores |= {f"{name}_macro": float(np.mean(values)) for name, values in of_class.items()}
    scores["accuracy"] = float((labels == predicted).all(axis=1).mean())
    if not len(thresholds) and labels.shape[1] > _TOP:
        scores["accuracy_top5"] = _top_accuracy(labels, probabilities, _TOP)
    return scores, ClassScores(
        names=list(class_names),
        samples=labels.sum(axis=0).tolist(),
        thresholds=list(thresholds),
        confusion=[] if len(thresholds) else (labels.T.astype(np.int64) @ predicted).tolist(),
        **{name: values.tolist() for name, values in of_class.items()},
    )


def average_precision(actual: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> float:
    """Sum over the thresholds of precision times what recall gains there; 0 where nothing is positive."""
    hits, predicted, _ = _at_each_threshold(actual, probabilities)
    if not hits[-1]:
        return 0.0
    gains = np.diff(hits, prepend=0) / hits[-1]
    return float((gains * hits / predicted).sum())


def best_threshold(actual: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> float:
    """The probability above which to predict a class so that its F1 is highest; of several, the largest. It lies half
    way between the two probabilities that it parts."""
    hits, predicted, values = _at_each_threshold(actual, np.nan_to_num(probabilities))
    best = int(np.argmax(2 * hits / (predicted + actual.sum())))
    below = values[best + 1] if best + 1 < len(values) else 0.0
    return float((float(values[best]) + float(below)) / 2)


def best_epoch(history: Sequence[EpochMetrics], objective: str) -> int:
    """The first of the epochs of the highest score."""
    return max(history, key=lambda metrics: (metrics.score(objective), -metrics.epoch)).epoch


def _at_each_threshold(
    actual: NDArray[np.bool_], probabilities: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each distinct probability, from the highest down: true positives and predictions of at least so much, and
    the probability itself."""
    order = np.argsort(-probabilities, kind="stable")
    sorted_probabilities = probabilities[order]
    last_of_each = np.append(np.flatnonzero(np.diff(sorted_probabilities)), len(order) - 1)
    return np.cumsum(actual[order])[last_of_each], last_of_each + 1, sorted_probabilities[last_of_each]


def predict_labels(probabilities: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Which classes are predicted: bool [n, classes], of probabilities and thresholds as `score` takes them."""
    if len(thresholds):
        return probabilities > np.asarray(thresholds)
    return np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]


def _top_accuracy(labels: NDArray[np.bool_], probabilities: NDArray[np.float32], count: int) -> float:
    top = np.argsort(probabilities, axis=1, kind="stable")[:, -count:]
    return float((top == labels.argmax(axis=1)[:, None]).any(axis=1).mean())


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)
