"""Tasks: what a network's outputs mean, what it is trained for and what counts as predicted.

`build(class_count, *, options...)` gives a `Task`. A data set names the one that fits it in its file, as
`TASK = "single_label"`; without it that is multi_label. Nothing here imports TensorFlow when it is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.protocol.records import TrialSpec
from trainers import components
from trainers.components import ComponentError

if TYPE_CHECKING:
    import tensorflow as tf

_CLASSES_OF_TOP_5 = 6


class Task(Protocol):
    """Between a model's logits and its loss and scores."""

    @property
    def is_single_label(self) -> bool:
        """Whether each sample bears one label exactly."""
        ...

    def losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Of each sample: logits float [n, classes], labels uint8 [n, classes] of 0 and 1; gives float32 [n]."""
        ...

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Of each class: float [n, classes] to float32 [n, classes].

        Made of keras.ops: an exported model ends with it.
        """
        ...

    def thresholds(self, labels: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> list[float]:
        """Of each class, the probability above which it counts as predicted, given what validation found; none where
        the most probable class does."""
        ...


def build_task(spec: TrialSpec, class_count: int) -> Task:
    """The task that the specification names.

    Raises:
        ComponentError: It cannot be built like this, or does not measure the objective.
    """
    task: Task = components.build("tasks", spec.task, class_count)
    if spec.objective == "accuracy_top5" and not (task.is_single_label and class_count >= _CLASSES_OF_TOP_5):
        raise ComponentError(
            f"objective='accuracy_top5' is a score of single_label with more than five classes; this is "
            f"{spec.task.name} with {class_count}. Take 'accuracy'."
        )
    return task


def class_weights(component: str, weights: Sequence[float] | None, class_count: int) -> NDArray[np.float32]:
    """A weight per class, 1 by default: float32 [classes].

    Raises:
        ComponentError: One too many or too few, or one that is not above 0.
    """
    if weights is None:
        return np.ones(class_count, np.float32)
    if len(weights) != class_count:
        raise ComponentError(f"{component}: class_weights has {len(weights)} values; there are {class_count} classes.")
    if wrong := [weight for weight in weights if not 0 < weight < float("inf")]:
        raise ComponentError(f"{component}: class_weights holds {wrong[0]!r}; each must be above 0.")
    return np.asarray(weights, np.float32)


def check_shape_of_loss(component: str, label_smoothing: float, focal_gamma: float) -> None:
    """
    Raises:
        ComponentError: label_smoothing or focal_gamma is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise ComponentError(f"{component}: label_smoothing={label_smoothing!r}; it must be at least 0 and below 1.")
    if not 0 <= focal_gamma < float("inf"):
        raise ComponentError(f"{component}: focal_gamma={focal_gamma!r}; it must be 0 or more.")
