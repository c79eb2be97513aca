"""Fused kernels compute what Keras does, over its variables, in fewer operations."""

from __future__ import annotations

import re
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from storage.protocol.records import ComponentSpec
from study.catalog import component_names
from trainers import components
from trainers.batch_normalisation import FusedBatchNormalization
from trainers.model_graph import exchange_layers
from trainers.optimizers import sgd

CLASSES = 5
STEPS = 20


@pytest.fixture(params=component_names("model"))
def name(request) -> str:
    return request.param


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    ids=["plain", "momentum", "nesterov-decay"],
)
def test_twenty_steps_leave_the_weights_that_keras_leaves(options):
    own, keras_own = small_model(), small_model()
    own = exchange_layers(own)
    ours = sgd.build(own, learning_rate=0.02, **options)
    theirs = keras_sgd(keras_own, learning_rate=0.02, **options)

    for number in range(STEPS):
        step(own, ours, *batch(number))
        step(keras_own, theirs, *batch(number))

    for one, other in zip([*own.variables, *ours.variables], [*keras_own.variables, *theirs.variables], strict=True):
        assert one.path == other.path
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=one.path)


def test_a_fused_model_has_the_variables_of_the_one_before(name):
    model = build(name)
    paths, values = [path_of(v) for v in model.variables], [v.numpy() for v in model.variables]

    fused = exchange_layers(model)

    assert [path_of(v) for v in fused.variables] == paths
    for one, other in zip(fused.variables, values, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not [layer.name for layer in fused.layers if type(layer) is layers.BatchNormalization]


def path_of(variable: keras.Variable) -> str:
    """Keras counts its random generators, whatever they belong to."""
    return re.sub(r"seed_generator_\d+", "seed_generator", variable.path)


def test_a_fused_model_answers_as_the_one_before(name):
    model = build(name)
    images = batch(0)[0]
    expected = model(images, training=False)

    np.testing.assert_allclose(exchange_layers(model)(images, training=False), expected, atol=1e-5)


def test_a_model_within_a_model_is_fused():
    inner = small_model()
    images = keras.Input((32, 32, 3))
    fused = exchange_layers(keras.Model(images, inner(images)))

    assert kernels_of(lambda: fused(batch(0)[0], training=True))["FusedBatchNormV3"] == 2


def test_a_model_with_a_call_of_its_own_stays_as_it_is():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    model = Own()

    assert exchange_layers(model) is model


@pytest.mark.parametrize("pixels", [1, 2, 50])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_on_features_gives_what_keras_gives(pixels, training):
    features = np.random.default_rng(0).normal(3.0, 2.0, (pixels, 4)).astype(np.float32)
    own, keras_own = FusedBatchNormalization(momentum=0.5), layers.BatchNormalization(momentum=0.5)

    np.testing.assert_allclose(
        own(features, training=training), keras_own(features, training=training), rtol=1e-5, atol=1e-5
    )
    for one, other in zip(own.variables, keras_own.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_bfloat16_is_normalised_in_the_kernel_with_statistics_in_float32():
    layer = FusedBatchNormalization(dtype="mixed_bfloat16")
    images = tf.cast(tf.random.stateless_normal([8, 6, 6, 4], seed=[0, 1]) * 3.0 + 1.0, tf.bfloat16)

    outputs = layer(images, training=True)

    assert outputs.dtype == tf.bfloat16
    assert {v.dtype for v in layer.variables} == {"float32"}
    normalised = tf.cast(outputs, tf.float32)
    np.testing.assert_allclose(tf.math.reduce_mean(normalised, [0, 1, 2]), np.zeros(4), atol=0.02)
    np.testing.assert_allclose(tf.math.reduce_std(normalised, [0, 1, 2]), np.ones(4), atol=0.02)
    assert kernels_of(lambda: layer(images, training=True))["FusedBatchNormV3"] == 1


@pytest.mark.parametrize("options", [{"axis": 1}, {"scale": False}, {"center": False}, {"momentum": 0.3}])
def test_options_of_the_layer_keep_their_meaning(options):
    images = np.random.default_rng(0).normal(1.0, 2.0, (4, 5, 6, 3)).astype(np.float32)
    own, keras_own = FusedBatchNormalization(**options), layers.BatchNormalization(**options)

    np.testing.assert_allclose(own(images, training=True), keras_own(images, training=True), rtol=1e-4, atol=1e-5)
    for one, other in zip(own.variables, keras_own.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_frozen_layer_keeps_its_statistics():
    layer = FusedBatchNormalization()
    images = batch(0)[0]
    layer.build(images.shape)
    layer.trainable = False

    layer(images, training=True)

    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


@pytest.mark.parametrize(
    ("name", "normalisations", "variables", "operations"),
    [("efficientnet_b0", 49, 213, 3966), ("small_resnet", 10, 31, 460)],
)
def test_a_step_has_one_kernel_per_normalisation_and_per_variable(name, normalisations, variables, operations):
    model = exchange_layers(build(name))
    optimizer = sgd.build(model, learning_rate=0.1, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)

    found = kernels_of(lambda: step(model, optimizer, *batch(0)))

    assert found["FusedBatchNormV3"] == found["FusedBatchNormGradV3"] == normalisations
    # One for Nesterov's variant and one without, in two branches of which one runs.
    assert found["ResourceApplyKerasMomentum"] == 2 * len(model.trainable_variables) == 2 * variables
    assert sum(found.values()) == operations


def test_other_values_of_all_options_need_no_other_trace():
    model = small_model()
    optimizer = sgd.build(model, learning_rate=0.1, momentum=0.5, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    kernel = model.trainable_variables[0]
    before = kernel.numpy()

    @tf.function
    def update() -> None:
        optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)

    update()
    velocity = -0.1
    np.testing.assert_allclose(kernel, before * (1 - 0.05) + velocity, rtol=1e-5, atol=1e-6)
    before = kernel.numpy()
    optimizer.learning_rate.assign(0.2)
    optimizer.momentum_value.assign(0.25)
    optimizer.weight_decay_value.assign(1.0)
    update()

    velocity = 0.25 * velocity - 0.2
    np.testing.assert_allclose(kernel, before * (1 - 0.2) + velocity, rtol=1e-5, atol=1e-6)
    before = kernel.numpy()
    optimizer.nesterov_value.assign(True)
    optimizer.weight_decay_value.assign(0.0)
    update()

    velocity = 0.25 * velocity - 0.2
    np.testing.assert_allclose(kernel, before + 0.25 * velocity - 0.2, rtol=1e-5, atol=1e-6)
    assert update.experimental_get_tracing_count() == 1


def build(name: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    return components.build("models", ComponentSpec(name), (32, 32, 3), CLASSES)


def small_model() -> keras.Model:
    """One normalisation of each rank."""
    keras.utils.set_random_seed(1)
    images = keras.Input((32, 32, 3))
    features = layers.ReLU()(layers.BatchNormalization(name="of_images")(layers.Conv2D(8, 3, 2, name="stem")(images)))
    features = layers.BatchNormalization(name="of_features")(layers.GlobalAveragePooling2D()(features))
    return keras.Model(images, layers.Dense(CLASSES, name="logits")(features))


def keras_sgd(model: keras.Model, *, weight_decay: float = 0.0, **options: float) -> keras.optimizers.SGD:
    optimizer = keras.optimizers.SGD(weight_decay=weight_decay or None, name="SGD", **options)
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


def batch(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight standardised images, float32 [8, 32, 32, 3], and labels float32 [8, classes] of 0 and 1."""
    rng = np.random.default_rng(number)
    return rng.standard_normal((8, 32, 32, 3), np.float32), rng.integers(0, 2, (8, CLASSES)).astype(np.float32)


def step(model: keras.Model, optimizer: keras.optimizers.Optimizer, images: np.ndarray, labels: np.ndarray) -> None:
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    optimizer.apply(gradients, model.trainable_variables)


def kernels_of(act) -> Counter[str]:
    """How many operations of each type a trace of `act` has, without constants and the resources that it captures."""
    graph = tf.function(lambda: (act(), None)[1]).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return Counter(node.op for node in nodes if node.op not in ("Const", "Placeholder", "NoOp"))
