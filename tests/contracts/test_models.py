"""What the trainer asks of every model. The models are found by themselves, as the driver finds them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from storage.protocol.records import ComponentSpec
from tests.contracts import subjects
from tests.contracts.model_examples import NARROWEST
from trainers import components
from trainers.components import ComponentError
from trainers.onednn import overflowing_convolutions

CLASSES = 5


@pytest.fixture(scope="module", params=subjects.names("model"))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> keras.Model:
    """As it is built; a test that trains builds its own."""
    return build(name)


@pytest.mark.parametrize("shape", [(32, 32, 1), (32, 32, 12), (45, 37, 3)])
def test_an_image_of_any_size_and_number_of_bands_becomes_logits(name, shape):
    logits = build(name, shape)(images(4, shape), training=False)

    assert logits.shape == (4, CLASSES)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()


def test_logits_are_not_squashed(model):
    assert model.layers[-1].activation is keras.activations.linear


def test_standardised_images_are_not_rescaled_again(model):
    # keras.applications divides by 255 in many of its networks, which leaves nothing of a standardised image.
    preprocessing = (keras.layers.Rescaling, keras.layers.Normalization)

    assert not [layer.name for layer in model.layers if isinstance(layer, preprocessing)]


def test_there_is_an_example_of_narrow_layers(name):
    assert name in NARROWEST or subjects.is_own(name), f"add {name!r} to NARROWEST in tests/contracts/model_examples.py"


@pytest.mark.parametrize("bands", [1, 3, 12])
def test_no_convolution_is_one_whose_gradient_corrupts_memory(name, bands):
    model = build(name, (32, 32, bands), **NARROWEST.get(name, {}))

    assert overflowing_convolutions(model) == []


def test_every_weight_is_a_float_that_ranks_can_average(model):
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_the_gradient_of_every_trainable_weight_is_finite(name):
    model = build(name)

    gradients = loss_and_gradients(model, *batch())[1]

    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, f"{weight.path} has no part in the logits"
        assert np.isfinite(gradient).all(), weight.path


def test_the_same_seed_gives_the_same_weights_and_dropout(name, model):
    # The variables also hold the states of the random generators.
    for one, other in zip(model.variables, build(name).variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_another_seed_gives_other_weights(name, model):
    other = build(name, seed=2)

    assert any((one.numpy() != two.numpy()).any() for one, two in zip(model.weights, other.weights, strict=True))


def test_an_answer_does_not_depend_on_the_other_images_of_the_batch(model):
    several = images(4)

    together = model(several, training=False).numpy()
    alone = model(several[:1], training=False).numpy()

    np.testing.assert_allclose(together[:1], alone, rtol=0, atol=1e-4 * abs(together).max())


def test_the_loss_falls_within_a_few_steps_of_plain_sgd(name):
    model, (samples, labels) = build(name), batch()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step() -> tf.Tensor:
        loss, gradients = loss_and_gradients(model, samples, labels)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    losses = [float(step()) for _ in range(12)]

    assert np.mean(losses[-3:]) < 0.8 * losses[0]


def test_an_unknown_option_is_refused(name):
    with pytest.raises(ComponentError, match="no_such_option"):
        build(name, no_such_option=1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("small_resnet", {"width": 0}, "width=0; it must be an integer of 1 or more"),
        ("small_resnet", {"width": 1.5}, "width=1.5; it must be of type int"),
        ("small_resnet", {"blocks": []}, r"blocks=\[\]; it must list the blocks of each stage"),
        ("small_resnet", {"blocks": [1, 0]}, r"blocks=\[1, 0\]; it must list"),
        ("small_resnet", {"blocks": 3}, "blocks=3; it must list"),
        ("small_resnet", {"normalisation": "layer"}, "normalisation='layer'; it must be batch or none"),
        ("small_resnet", {"batch_norm_momentum": 1.0}, r"batch_norm_momentum=1.0; it must be in \[0, 1\)"),
        ("efficientnet_b0", {"dropout_rate": 1.0}, r"dropout_rate=1.0; it must be in \[0, 1\)"),
        ("efficientnet_b0", {"drop_connect_rate": -0.1}, "drop_connect_rate=-0.1; it must be"),
        ("efficientnet_b0", {"batch_norm_momentum": 2}, "batch_norm_momentum=2; it must be"),
    ],
)
def test_an_impossible_option_is_refused_with_the_rule(name, options, message):
    with pytest.raises(ComponentError, match=message):
        build(name, **options)


def test_a_small_resnet_without_normalisation_gives_the_mean_gradient_of_its_parts():
    # What makes N ranks with b samples each equal to one rank with N b; batch normalisation breaks it.
    model, (samples, labels) = build("small_resnet", normalisation="none"), batch()

    whole = loss_and_gradients(model, samples, labels)[1]
    halves = [loss_and_gradients(model, samples[part], labels[part])[1] for part in (slice(0, 4), slice(4, 8))]

    for gradient, one, other in zip(whole, *halves, strict=True):
        np.testing.assert_allclose(gradient, (one + other) / 2, rtol=1e-3, atol=1e-5)


def test_a_small_resnet_has_the_stages_that_it_is_given():
    def filters(blocks: list[int]) -> list[int]:
        model = build("small_resnet", width=4, blocks=blocks)
        return [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]

    assert filters([1]) == [4, 4, 4]
    assert max(filters([1, 1, 1, 1])) == 32
    assert len(filters([3])) == 1 + 2 * 3


def test_efficientnet_b0_drops_as_its_options_say():
    def rates(**options) -> list[float]:
        model = build("efficientnet_b0", **options)
        return [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]

    *drop_connect, dropout = rates(drop_connect_rate=0.4, dropout_rate=0.3)
    assert dropout == 0.3
    # Nine of the sixteen blocks have a shortcut; the last of them is the fifteenth.
    np.testing.assert_allclose(drop_connect, 0.4 * np.array([2, 4, 6, 7, 9, 10, 12, 13, 14]) / 16)
    assert not any(rates(drop_connect_rate=0.0, dropout_rate=0.0))


def build(name: str, shape: tuple[int, int, int] = (32, 32, 12), seed: int = 1, **options) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return components.build("models", ComponentSpec(name, {**subjects.options_of(name), **options}), shape, CLASSES)


def images(count: int, shape: tuple[int, int, int] = (32, 32, 12)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape), np.float32)


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Eight standardised images, and labels float32 [8, classes] of 0 and 1."""
    return images(8), np.random.default_rng(1).integers(0, 2, (8, CLASSES)).astype(np.float32)


def loss_and_gradients(
    model: keras.Model, samples: np.ndarray, labels: np.ndarray
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
        logits = model(samples, training=True)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
    return loss, tape.gradient(loss, [variable.value for variable in model.trainable_variables])
