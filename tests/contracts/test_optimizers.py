"""What the trainer asks of every optimizer. The optimizers are found by themselves, as the driver finds them.

An optimizer takes `learning_rate`, and `weight_decay` if it decays weights.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from storage.protocol.records import ComponentSpec
from tests.contracts import subjects
from trainers import components
from trainers.components import ComponentError

LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.5


@pytest.fixture(params=subjects.names("optimizer"))
def name(request) -> str:
    return request.param


@pytest.fixture
def model() -> keras.Model:
    """One layer of each sort that has a bias or normalises."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    features = layers.Conv2D(4, 3, bias_initializer="ones", name="convolution")(images)
    features = layers.BatchNormalization(beta_initializer="ones", name="batch_norm")(features)
    features = layers.DepthwiseConv2D(3, bias_initializer="ones", name="depthwise")(features)
    features = layers.LayerNormalization(beta_initializer="ones", name="layer_norm")(features)
    features = layers.GlobalAveragePooling2D()(features)
    return keras.Model(images, layers.Dense(2, bias_initializer="ones", name="dense")(features))


def test_it_holds_its_state_before_the_first_step(name, model):
    optimizer = build(name, model)

    # What is made later would be neither broadcast to the ranks nor put into a checkpoint.
    before = [variable.path for variable in optimizer.variables]
    step(optimizer, model, gradient=1.0)
    assert [variable.path for variable in optimizer.variables] == before


def test_a_step_moves_every_weight(name, model):
    before = values(model)

    step(build(name, model), model, gradient=1.0)

    for path, value in values(model).items():
        assert np.isfinite(value).all(), path
        assert (value != before[path]).all(), path


def test_a_step_is_made_against_the_gradient(name, model):
    before = values(model)

    step(build(name, model), model, gradient=1.0)

    for path, value in values(model).items():
        assert (value < before[path]).all(), path


def test_kernels_decay_and_biases_and_normalisation_do_not(name, model):
    before = values(model)
    try:
        optimizer = build(name, model, weight_decay=WEIGHT_DECAY)
    except ComponentError as error:
        if "takes no option weight_decay" not in str(error):
            raise
        pytest.skip(f"{name} has no weight decay")

    step(optimizer, model, gradient=0.0)

    after = values(model)
    decayed = {path for path in before if (abs(after[path]) < abs(before[path])).all()}
    untouched = {path for path in before if (after[path] == before[path]).all()}
    assert decayed == {"convolution/kernel", "depthwise/kernel", "dense/kernel"}
    assert untouched == set(before) - decayed


def build(name: str, model: keras.Model, **options: float) -> keras.optimizers.Optimizer:
    spec = ComponentSpec(name, {"learning_rate": LEARNING_RATE, **subjects.options_of(name), **options})
    optimizer = components.build("optimizers", spec, model)
    optimizer.build(model.trainable_variables)
    return optimizer


def step(optimizer: keras.optimizers.Optimizer, model: keras.Model, gradient: float) -> None:
    gradients = [tf.fill(variable.shape, gradient) for variable in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy() for variable in model.trainable_variables}
