"""One label for each sample: a softmax over the classes and the cross-entropy of the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.tasks import check_shape_of_loss
from trainers.tasks import class_weights as _weights

if TYPE_CHECKING:
    import tensorflow as tf


def build(
    class_count: int,
    *,
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> SingleLabel:
    """
    Args:
        class_count: Of the data set.
        class_weights: Of a sample's loss, by its true class.
        label_smoothing: s in [0, 1): the loss is taken against s / classes, and 1 - s more for the true class.
        focal_gamma: The focal loss's exponent (Lin et al. 2017, arXiv:1708.02002); 0 is the cross-entropy.

    Raises:
        ComponentError: An option is out of its range.
    """
    check_shape_of_loss("single_label", label_smoothing, focal_gamma)
    return SingleLabel(_weights("single_label", class_weights, class_count), label_smoothing, focal_gamma)


@dataclass(frozen=True)
class SingleLabel:
    weights: NDArray[np.float32]
    label_smoothing: float
    focal_gamma: float

    is_single_label = True

    def losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The softmax cross-entropy."""
        import tensorflow as tf

        logits, one_hot = tf.cast(logits, tf.float32), tf.cast(labels, tf.float32)
        targets = one_hot
        if self.label_smoothing:
            targets = one_hot * (1 - self.label_smoothing) + self.label_smoothing / len(self.weights)
        entropies = tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)
        if self.focal_gamma:
            # The axis is kept at first for the gradient's sake: trainers/pooling.py.
            missed = tf.reduce_sum((1 - one_hot) * tf.nn.softmax(logits), axis=1, keepdims=True)
            entropies *= tf.squeeze(missed, axis=1) ** self.focal_gamma
        if (self.weights != 1).any():
            entropies *= tf.reduce_sum(one_hot * self.weights, axis=1)
        return entropies

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        from keras import ops

        return ops.softmax(ops.cast(logits, "float32"))

    def thresholds(self, labels: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> list[float]:
        return []
