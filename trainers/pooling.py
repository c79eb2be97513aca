"""Pooling over whole images whose gradient asks the GPU for no number.

For the gradient of a mean or a maximum that drops the axes, TensorFlow puts a shape together on the GPU, and the host,
which allocates by it, waits for all that it has started. Where the axes are kept there is no such shape.
"""

from __future__ import annotations

import keras
from keras import layers


class MeanPooling2D(layers.GlobalAveragePooling2D):
    """Keras' layer, with the same values and gradients."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        axes = _axes_of_pixels(self)
        mean = keras.ops.mean(inputs, axes, keepdims=True)
        return mean if self.keepdims else keras.ops.squeeze(mean, axes)


class MaxPooling2D(layers.GlobalMaxPooling2D):
    """Keras' layer, with the same values and gradients."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        axes = _axes_of_pixels(self)
        largest = keras.ops.max(inputs, axes, keepdims=True)
        return largest if self.keepdims else keras.ops.squeeze(largest, axes)


def _axes_of_pixels(layer: layers.Layer) -> tuple[int, int]:
    return (1, 2) if layer.data_format == "channels_last" else (2, 3)
