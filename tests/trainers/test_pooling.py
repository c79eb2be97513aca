"""Pooling over whole images gives what Keras gives, and its gradient puts no shape together."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainers.pooling import MaxPooling2D, MeanPooling2D

# Two pixels that are both the largest share the gradient.
IMAGES = np.random.default_rng(0).integers(0, 9, (5, 4, 3, 2)).astype(np.float32)


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def dtype(request) -> str:
    return request.param


@pytest.mark.parametrize("options", [{}, {"keepdims": True}, {"data_format": "channels_first"}])
@pytest.mark.parametrize(
    ("own", "of_keras"),
    [(MeanPooling2D, layers.GlobalAveragePooling2D), (MaxPooling2D, layers.GlobalMaxPooling2D)],
)
def test_values_and_gradients_are_those_of_keras(own, of_keras, options, dtype):
    found, expected = (run(kind(dtype=dtype, **options)) for kind in (own, of_keras))

    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [MeanPooling2D, MaxPooling2D])
def test_a_gradient_for_any_number_of_images_puts_no_shape_together(kind):
    layer = kind()

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 3, 2])])
    def gradient(images):
        return gradient_of(layer, images)[1]

    operations = [operation.type for operation in gradient.get_concrete_function().graph.get_operations()]
    assert "DynamicStitch" not in operations


def run(layer: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    outputs, gradient = gradient_of(layer, tf.constant(IMAGES, layer.compute_dtype))
    return outputs.numpy(), gradient.numpy()


def gradient_of(layer: keras.Layer, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images)
        # Not the same for all.
        weighted = outputs * tf.cast(tf.reshape(tf.range(tf.size(outputs)), tf.shape(outputs)), outputs.dtype)
    return outputs, tape.gradient(weighted, images)
