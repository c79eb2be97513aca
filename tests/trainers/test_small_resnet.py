"""The shortcut of small_resnet is a strided convolution, whichever way it is written."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainers.models import small_resnet

# Fewer channels corrupt memory where the convolution has the stride: docs/adr/0006.
WIDTH = 16


@pytest.mark.parametrize("size", [32, 45])
def test_its_shortcuts_give_what_strided_convolutions_give(size):
    model = build(size)
    strided = with_strided_shortcuts(model)
    images = np.random.default_rng(0).standard_normal((4, size, size, 3), np.float32)

    (loss, gradients), (expected_loss, expected) = (loss_and_gradients(m, images) for m in (model, strided))

    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for variable, gradient, other in zip(model.trainable_variables, gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5 * abs(other).max(), err_msg=variable.path)


def test_its_variables_are_those_of_its_checkpoints():
    """By their shapes and in their order, which is all that a checkpoint knows of them."""
    model = build(size=32)

    assert [tuple(variable.shape) for variable in model.trainable_variables] == [
        *((3, 3, 3, 16), (16,), (16,)),
        # A block's convolution, shortcut and second convolution, of a stage after the first.
        *((3, 3, 16, 16), (16,), (16,), (3, 3, 16, 16), (16,), (16,)),
        *((3, 3, 16, 32), (32,), (32,), (1, 1, 16, 32), (3, 3, 32, 32), (32,), (32,), (32,), (32,)),
        *((64,), (64,), (64, 5), (5,)),
    ]
    assert [tuple(variable.shape) for variable in model.non_trainable_variables] == [
        *[(16,)] * 6,
        *[(32,)] * 6,
        *[(64,)] * 2,
    ]


def build(size: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    return small_resnet.build((size, size, 3), 5, width=WIDTH, blocks=[1, 1])


def with_strided_shortcuts(model: keras.Model) -> keras.Model:
    """The same network with the same weights; its shortcuts take every pixel, and their convolutions the stride."""

    def convolution_with_stride(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1):
            return layers.Conv2D.from_config({**layer.get_config(), "strides": 2})
        return layer.__class__.from_config(layer.get_config())

    def without_slice(layer: keras.Layer, *arguments: object, **keywords: object) -> keras.KerasTensor:
        is_slice = type(layer).__name__ == "GetItem"
        return arguments[0] if is_slice else layer(*arguments, **keywords)

    strided = keras.models.clone_model(model, clone_function=convolution_with_stride, call_function=without_slice)
    strided.set_weights(model.get_weights())
    return strided


def loss_and_gradients(model: keras.Model, images: np.ndarray) -> tuple[float, list[np.ndarray]]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(images, training=True)))
    return float(loss), [g.numpy() for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]
