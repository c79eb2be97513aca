"""Layers that are exchanged, and models that share what is compiled."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainers.model_graph import are_same_but_for_rates, exchange_layers, rates_of_dropout, set_rates_of_dropout
from trainers.models import efficientnet_b0, small_resnet

IMAGES = np.random.default_rng(0).standard_normal((4, 32, 32, 3), np.float32)


def build(dropout_rate: float, **options: object) -> keras.Model:
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    return small_resnet.build((32, 32, 3), 5, width=4, blocks=[1, 1], dropout_rate=dropout_rate, **options)


@pytest.mark.parametrize("noise_shape", [None, (None, 1)])
def test_a_variable_rate_leaves_out_what_keras_does(noise_shape):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((1000,)), layers.Dropout(0.3, noise_shape, seed=5)])
    exchanged = exchange_layers(model)
    features = tf.ones((6, 1000))

    for _ in range(3):
        np.testing.assert_allclose(exchanged(features, training=True), model(features, training=True), rtol=1e-6)
    np.testing.assert_array_equal(exchanged(features, training=False), features)


def test_what_was_compiled_computes_another_model_once_it_has_its_rates():
    model, other = exchange_layers(build(0.3)), exchange_layers(build(0.6))
    compiled = tf.function(lambda images: model(images, training=True))
    compiled(IMAGES)
    traces = compiled.experimental_get_tracing_count()

    set_rates_of_dropout(model, rates_of_dropout(other))
    for variable, value in zip(model.variables, other.variables, strict=True):
        variable.assign(value)

    np.testing.assert_array_equal(compiled(IMAGES), tf.function(lambda images: other(images, training=True))(IMAGES))
    assert compiled.experimental_get_tracing_count() == traces


def with_activation(slope: float) -> keras.Model:
    def activation(features: tf.Tensor) -> tf.Tensor:
        return slope * features

    return of_layers(layers.Dense(2, activation=activation))


def of_layers(*more: layers.Layer) -> keras.Model:
    keras.backend.clear_session()
    return keras.Sequential([keras.Input((4,)), layers.Dropout(0.5), *more])


class Scaled(layers.Layer):
    """With an option that its configuration does not tell."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.scale


def efficientnet(**rates: float) -> keras.Model:
    keras.backend.clear_session()
    return efficientnet_b0.build((32, 32, 3), 5, **rates)


@pytest.mark.parametrize(
    ("build_one", "build_other", "are_same"),
    [
        pytest.param(lambda: build(0.3), lambda: build(0.6), True, id="another rate"),
        pytest.param(
            lambda: efficientnet(dropout_rate=0.1, drop_connect_rate=0.3), efficientnet, True, id="efficientnet_b0"
        ),
        pytest.param(lambda: build(0.3), lambda: build(0.0), False, id="no dropout"),
        pytest.param(lambda: build(0.3), lambda: build(0.3, batch_norm_momentum=0.5), False, id="another momentum"),
        pytest.param(lambda: build(0.3), lambda: build(0.3, normalisation="none"), False, id="other layers"),
        pytest.param(lambda: with_activation(1.0), lambda: with_activation(2.0), False, id="a function"),
        pytest.param(lambda: of_layers(Scaled(1.0)), lambda: of_layers(Scaled(2.0)), False, id="a layer of one's own"),
        pytest.param(
            lambda: of_layers(layers.Lambda(lambda x: x)), lambda: of_layers(layers.Lambda(lambda x: -x)), False, id="λ"
        ),
    ],
)
def test_models_are_the_same_only_where_that_is_known(
    build_one: Callable[[], keras.Model], build_other: Callable[[], keras.Model], are_same: bool
):
    one, other = (exchange_layers(build()) for build in (build_one, build_other))

    assert are_same_but_for_rates(one, other) is are_same
