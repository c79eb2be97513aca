from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.optimizers import sgd

GRADIENTS = np.array([[0.5, -1.0], [1.5, 2.0], [-0.5, 0.25]], np.float32)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_follow_the_published_rule_with_decay_apart_from_the_velocity(momentum, nesterov):
    kernel = np.array([[1.0, -2.0]], np.float32)
    weight, velocity = kernel.copy(), np.zeros_like(kernel)
    for gradient in GRADIENTS:
        weight = weight * (1 - 0.1 * 0.01)
        velocity = momentum * velocity - 0.1 * gradient
        weight = weight + (momentum * velocity - 0.1 * gradient if nesterov else velocity)

    model = one_kernel(kernel)
    optimizer = sgd.build(model, learning_rate=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    for gradient in GRADIENTS:
        optimizer.apply([tf.constant(gradient[None])], model.trainable_variables)

    np.testing.assert_allclose(model.trainable_variables[0], weight, rtol=1e-5)


def test_no_decay_leaves_a_weight_without_gradient_where_it_is():
    model = one_kernel(np.array([[1.0, -2.0]], np.float32))

    sgd.build(model, learning_rate=0.1).apply([tf.zeros((1, 2))], model.trainable_variables)

    np.testing.assert_array_equal(model.trainable_variables[0], [[1.0, -2.0]])


def one_kernel(kernel: np.ndarray) -> keras.Model:
    model = keras.Sequential([keras.Input(kernel.shape[:1]), keras.layers.Dense(kernel.shape[1], use_bias=False)])
    model.set_weights([kernel])
    return model
