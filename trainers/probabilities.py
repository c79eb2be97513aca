"""From logits to probabilities: the one place that says how."""

from __future__ import annotations

import keras

from storage.protocol.exports import Activation


def probabilities(logits: keras.KerasTensor, activation: Activation) -> keras.KerasTensor:
    """float32 [n, classes] of logits [n, classes]: of tensors, or of a graph's."""
    match activation:
        case Activation.SIGMOID:
            return keras.ops.sigmoid(keras.ops.cast(logits, "float32"))
