"""Networks and optimizers of Keras as components, by their import path."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from storage.protocol.records import ComponentSpec
from trainers import components
from trainers.components import ComponentError
from trainers.model_graph import exchange_layers

OPTIMIZERS = ["SGD", "AdamW", "Nadam", "Lion", "Adafactor"]
# The smallest of those that do something to their images, or end in something else than a layer of weights.
MODELS = {"EfficientNetB0": {}, "MobileNet": {"alpha": 0.25}, "MobileNetV3Small": {"dropout_rate": 0.1}}


@pytest.fixture
def float32_after():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(("name", "options"), MODELS.items())
def test_a_network_takes_standardised_images_of_any_bands_and_gives_float32_logits(name, options, float32_after):
    keras.config.set_dtype_policy("mixed_bfloat16")
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 12), np.float32)

    model = exchange_layers(build_model(name, **options))

    logits = model(images, training=False)
    assert (logits.shape, logits.dtype) == ((2, 5), tf.float32)
    assert not [layer.name for layer in model.layers if isinstance(layer, layers.Rescaling | layers.Normalization)]
    activation = getattr(model.layers[-1], "activation", keras.activations.linear)
    assert activation is keras.activations.linear


@pytest.mark.parametrize("option", ["include_top", "weights", "pooling", "classes", "include_preprocessing"])
def test_what_the_trainer_decides_is_no_option_of_a_network(option):
    with pytest.raises(ComponentError, match=f"takes no option {option}; it takes alpha, minimalistic, dropout_rate"):
        build_model("MobileNetV3Small", **{option: None})


def test_a_network_that_is_too_large_for_the_images_is_refused_in_keras_own_words():
    with pytest.raises(ValueError, match="Input size must be at least 71x71"):
        build_model("Xception")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_decays_kernels_alone_and_holds_all_of_its_state_before_the_first_step(name):
    model = small_model()
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    optimizer = build_optimizer(name, model, learning_rate=1, weight_decay=0.5)
    state = [variable.path for variable in optimizer.variables]

    optimizer.apply([tf.zeros(variable.shape) for variable in model.trainable_variables], model.trainable_variables)

    changed = {v.path for v in model.trainable_variables if (v.numpy() != before[v.path]).any()}
    assert changed == {"convolution/kernel", "dense/kernel"}
    assert [variable.path for variable in optimizer.variables] == state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_the_same_state_goes_on_as_if_it_had_not_been_interrupted(name):
    def steps(optimizer, model, count: int) -> None:
        for number in range(count):
            gradients = [tf.fill(variable.shape, 0.1 * (number + 1)) for variable in model.trainable_variables]
            optimizer.apply(gradients, model.trainable_variables)

    model, other = small_model(), small_model()
    optimizer, resumed = (build_optimizer(name, each, learning_rate=0.01) for each in (model, other))
    steps(optimizer, model, 3)
    # What a checkpoint holds.
    for source, target in zip(optimizer.variables + model.variables, resumed.variables + other.variables, strict=True):
        target.assign(source)
    steps(optimizer, model, 2)
    steps(resumed, other, 2)

    for one, two in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=one.path)


@pytest.mark.parametrize("option", ["gradient_accumulation_steps", "loss_scale_factor", "use_ema", "name"])
def test_what_the_trainer_does_in_its_own_way_is_no_option_of_an_optimizer(option):
    with pytest.raises(ComponentError, match=f"takes no option {option}; it takes learning_rate, weight_decay"):
        build_optimizer("AdamW", small_model(), **{option: 2})


def build_model(name: str, **options) -> keras.Model:
    return components.build("models", ComponentSpec(f"keras.applications:{name}", options), (32, 32, 12), 5)


def build_optimizer(name: str, model: keras.Model, /, **options) -> keras.optimizers.Optimizer:
    optimizer = components.build("optimizers", ComponentSpec(f"keras.optimizers:{name}", options), model)
    optimizer.build(model.trainable_variables)
    return optimizer


def small_model() -> keras.Model:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    features = layers.Conv2D(4, 3, bias_initializer="ones", name="convolution")(images)
    features = layers.BatchNormalization(beta_initializer="ones", name="batch_norm")(features)
    features = layers.GlobalAveragePooling2D()(features)
    return keras.Model(images, layers.Dense(2, bias_initializer="ones", name="dense")(features))
