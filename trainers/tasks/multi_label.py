"""Any number of labels for each sample: a sigmoid and a binary cross-entropy per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from trainers.components import ComponentError
from trainers.metrics import best_threshold
from trainers.tasks import check_shape_of_loss
from trainers.tasks import class_weights as _weights

if TYPE_CHECKING:
    import tensorflow as tf


def build(
    class_count: int,
    *,
    threshold: float = 0.5,
    thresholds: Literal["fixed", "validation"] = "fixed",
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> MultiLabel:
    """
    Args:
        class_count: Of the data set.
        threshold: Probability above which a label counts as predicted.
        thresholds: With "validation", each class has the threshold with which its F1 on the validation split is
            highest, chosen anew after each epoch. The validation scores are those of the best case then; the honest
            ones are the test split's.
        class_weights: Of each class's share in the loss.
        label_smoothing: s in [0, 1): the loss is taken against labels of s / 2 and 1 - s / 2.
        focal_gamma: The focal loss's exponent (Lin et al. 2017, arXiv:1708.02002); 0 is the cross-entropy.

    Raises:
        ComponentError: An option is out of its range.
    """
    if not 0 < threshold < 1:
        raise ComponentError(f"multi_label: threshold={threshold!r}; it must lie between 0 and 1.")
    check_shape_of_loss("multi_label", label_smoothing, focal_gamma)
    weights = _weights("multi_label", class_weights, class_count)
    return MultiLabel(threshold, thresholds == "validation", weights, label_smoothing, focal_gamma)


@dataclass(frozen=True)
class MultiLabel:
    threshold: float
    thresholds_are_chosen: bool
    weights: NDArray[np.float32]
    label_smoothing: float
    focal_gamma: float

    is_single_label = False

    def losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Mean over the classes of each one's sigmoid cross-entropy."""
        import tensorflow as tf

        logits, targets = tf.cast(logits, tf.float32), tf.cast(labels, tf.float32)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        entropies = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        if self.focal_gamma:
            # 1 - p of what is true, with no subtraction of numbers that are nearly the same.
            missed = tf.where(labels > 0, tf.sigmoid(-logits), tf.sigmoid(logits))
            entropies *= missed**self.focal_gamma
        if (self.weights != 1).any():
            entropies *= self.weights
        # The axis is kept at first for the gradient's sake: trainers/pooling.py.
        return tf.squeeze(tf.reduce_mean(entropies, axis=1, keepdims=True), axis=1)

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        from keras import ops

        return ops.sigmoid(ops.cast(logits, "float32"))

    def thresholds(self, labels: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> list[float]:
        if not self.thresholds_are_chosen:
            return [self.threshold] * labels.shape[1]
        return [
            best_threshold(actual, probability) if actual.any() else self.threshold
            for actual, probability in zip(labels.T, probabilities.T, strict=True)
        ]
