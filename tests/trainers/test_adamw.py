from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainers.components import ComponentError
from trainers.optimizers import adamw


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.BatchNormalization(), layers.Dense(3)])


def test_its_updates_are_those_of_keras():
    ours, theirs = model(), model()
    options = {"learning_rate": 0.01, "weight_decay": 0.1, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-6}
    fused, of_keras = adamw.build(ours, **options), keras.optimizers.AdamW(**options)
    of_keras.exclude_from_weight_decay([v for v in theirs.trainable_variables if len(v.shape) < 2])
    random = np.random.default_rng(0)

    for _ in range(30):
        gradients = [tf.constant(random.normal(size=v.shape), tf.float32) for v in ours.trainable_variables]
        fused.apply(gradients, ours.trainable_variables)
        of_keras.apply(gradients, theirs.trainable_variables)

    assert [v.shape for v in fused.variables] == [v.shape for v in of_keras.variables]
    for one, other in zip(fused.variables, of_keras.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours.trainable_variables, theirs.trainable_variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_another_trials_values_are_taken_over_without_another_trace():
    trained, fresh = model(), model()
    optimizer = adamw.build(trained, learning_rate=0.01, weight_decay=0.1)
    other = adamw.build(fresh, learning_rate=0.01, weight_decay=0.3, beta_1=0.5)
    optimizer.build(trained.trainable_variables)
    step = tf.function(lambda: optimizer.apply([tf.ones(v.shape) for v in trained.trainable_variables]))
    step()
    trained.set_weights(fresh.get_weights())
    for variable in optimizer.variables[2:]:
        variable.assign(tf.zeros(variable.shape))
    optimizer.iterations.assign(0)

    optimizer.adopt(other)
    step()

    other.apply([tf.ones(v.shape) for v in fresh.trainable_variables], fresh.trainable_variables)
    assert step.experimental_get_tracing_count() == 1
    for one, expected in zip(trained.trainable_variables, fresh.trainable_variables, strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("option", [{"beta_1": 1.0}, {"beta_2": -0.1}, {"epsilon": 0.0}, {"weight_decay": -1.0}])
def test_values_out_of_their_range_are_refused(option):
    (name,) = option
    with pytest.raises(ComponentError, match=f"adamw: .*{name}="):
        adamw.build(model(), learning_rate=0.1, **option)
