"""Dropout whose rate is a variable, so that trials that differ in it share what is compiled."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import layers


class VariableDropout(layers.Dropout):
    """Keras' layer, its rate above 0 read from a variable that neither `variables` nor a checkpoint holds."""

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(rate, **options)
        self.current_rate = tf.Variable(rate, trainable=False, dtype=tf.float32)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return inputs
        shape = tf.shape(inputs)
        noise_shape = [shape[i] if size is None else size for i, size in enumerate(self.noise_shape or ())]
        return tf.nn.experimental.stateless_dropout(
            inputs,
            rate=tf.cast(self.current_rate, inputs.dtype),
            seed=tf.cast(self.seed_generator.next(), tf.int32),
            noise_shape=noise_shape or None,
        )


def with_variable_rate(layer: layers.Dropout) -> layers.Dropout:
    """The same layer, its random generator in the same state. At a rate of 0 Keras has no generator; nor has this."""
    if layer.rate == 0:
        return layer
    # A seed of None would draw one of Python's global generator.
    variable = VariableDropout.from_config({**layer.get_config(), "seed": 0})
    variable.seed_generator.state.assign(layer.seed_generator.state)
    return variable
