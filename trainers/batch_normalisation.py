"""Batch normalisation as one kernel. Keras on TensorFlow makes ten small operations of each layer, and as many again
for its gradient; TensorFlow's own kernel, cuDNN's on a GPU, does the same in one pass.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import layers

# What the kernel normalises along the last axis: [batch, height, width, channels].
_KERNEL_RANK = 4


class FusedBatchNormalization(layers.BatchNormalization):
    """Keras' layer with its variables, in TensorFlow's FusedBatchNormV3; the momentum is a variable, too.

    Inputs float32 or bfloat16, [batch, channels] or [batch, height, width, channels]; the statistics are float32, and
    the moving variance is Keras' own, of the batch without Bessel's correction. What the kernel does not know (a mask,
    another axis or rank, statistics over several replicas) Keras computes, with the momentum that it was built with.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Neither `variables` nor a checkpoint holds it: it is set for each epoch.
        self.current_momentum = tf.Variable(self.momentum, trainable=False, dtype=tf.float32)

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        if mask is not None or not self._suits_the_kernel(inputs):
            return super().call(inputs, training=training, mask=mask)
        inputs = tf.cast(inputs, self.compute_dtype)
        shape = tf.shape(inputs)
        learns = bool(training) and self.trainable
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs if len(inputs.shape) == _KERNEL_RANK else inputs[:, None, None, :],
            scale=tf.ones_like(self.moving_mean.value) if self.gamma is None else self.gamma.value,
            offset=tf.zeros_like(self.moving_mean.value) if self.beta is None else self.beta.value,
            mean=tf.zeros(0) if learns else self.moving_mean.value,
            variance=tf.zeros(0) if learns else self.moving_variance.value,
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            # The kernel divides by one less than the number of pixels.
            pixels = tf.cast(tf.reduce_prod(shape[:-1]), tf.float32)
            kept = tf.convert_to_tensor(self.current_momentum)
            new = 1.0 - kept
            self.moving_mean.assign(self.moving_mean.value * kept + mean * new)
            population = variance * (tf.maximum(pixels - 1.0, 1.0) / pixels)
            self.moving_variance.assign(self.moving_variance.value * kept + population * new)
        return tf.reshape(outputs, shape) if len(inputs.shape) != _KERNEL_RANK else outputs

    def _suits_the_kernel(self, inputs: tf.Tensor) -> bool:
        rank = len(inputs.shape)
        return (
            rank in (2, _KERNEL_RANK)
            and self.axis in (-1, rank - 1)
            and not self.synchronized
            and not self.renorm
            and self.compute_dtype in ("float32", "bfloat16")
            and self.variable_dtype == "float32"
        )
