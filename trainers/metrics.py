"""Scores of a multi-label classifier, from counts that add up over ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ClassCounts:
    """True positives, false positives and false negatives of each class: int64 [classes] each.

    Counts of ranks are added before a score is taken. The mean of the ranks' own F1 scores is another number, and
    wrong: F1 is not linear in its counts.
    """

    true_positives: Counts
    false_positives: Counts
    false_negatives: Counts

    @property
    def f1_micro(self) -> float:
        """F1 of the counts summed over the classes."""
        return float(_f1(self.true_positives.sum(), self.false_positives.sum(), self.false_negatives.sum()))

    @property
    def f1_macro(self) -> float:
        """Mean over the classes of each one's F1; a class that neither occurs nor is predicted counts as 0."""
        return float(np.mean(_f1(self.true_positives, self.false_positives, self.false_negatives)))


def _f1(true_positives: Counts, false_positives: Counts, false_negatives: Counts) -> NDArray[np.float64]:
    denominator = 2 * true_positives + false_positives + false_negatives
    return np.where(denominator > 0, 2 * true_positives / np.maximum(denominator, 1), 0.0)
