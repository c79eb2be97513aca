"""What is trained for: losses against Keras' own, and options that are refused."""

from __future__ import annotations

import dataclasses
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from storage.protocol.records import ComponentSpec
from tests.trainers.tiny_trial import tiny_spec
from trainers.components import ComponentError
from trainers.faults import SpecError
from trainers.preflight import check_spec
from trainers.tasks import build_task, multi_label, single_label

CLASSES, SAMPLES = 7, 20
RANDOM = np.random.default_rng(0)
LOGITS = tf.constant(RANDOM.normal(scale=3, size=(SAMPLES, CLASSES)), tf.float32)
MANY = RANDOM.integers(0, 2, (SAMPLES, CLASSES)).astype(np.uint8)
ONE = np.eye(CLASSES, dtype=np.uint8)[RANDOM.integers(0, CLASSES, SAMPLES)]
WEIGHTS = [0.5, 1.0, 2.0, 1.0, 3.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "of_keras"),
    [
        ({}, keras.losses.BinaryCrossentropy),
        ({"label_smoothing": 0.1}, partial(keras.losses.BinaryCrossentropy, label_smoothing=0.1)),
        ({"focal_gamma": 3.0}, partial(keras.losses.BinaryFocalCrossentropy, gamma=3.0)),
    ],
    ids=["plain", "smoothed", "focal"],
)
def test_the_loss_of_many_labels_is_that_of_keras(options, of_keras):
    task, of_keras = multi_label.build(CLASSES, **options), of_keras(from_logits=True, reduction="none")

    np.testing.assert_allclose(task.losses(LOGITS, MANY), of_keras(MANY.astype("float32"), LOGITS), rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_one_label_is_that_of_keras(smoothing):
    task = single_label.build(CLASSES, label_smoothing=smoothing)
    of_keras = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")

    np.testing.assert_allclose(task.losses(LOGITS, ONE), of_keras(ONE.astype("float32"), LOGITS), rtol=1e-4)


def test_the_focal_loss_of_one_label_weighs_by_what_is_missed():
    plain, focal = single_label.build(CLASSES), single_label.build(CLASSES, focal_gamma=2.0)
    missed = 1 - (tf.nn.softmax(LOGITS).numpy() * ONE).sum(axis=1)

    np.testing.assert_allclose(focal.losses(LOGITS, ONE), plain.losses(LOGITS, ONE) * missed**2, rtol=1e-4)


def test_class_weights_weigh_a_class_or_the_samples_of_one():
    entropies = tf.nn.sigmoid_cross_entropy_with_logits(MANY.astype("float32"), LOGITS).numpy()
    of_many = multi_label.build(CLASSES, class_weights=WEIGHTS).losses(LOGITS, MANY)
    of_one = single_label.build(CLASSES, class_weights=WEIGHTS).losses(LOGITS, ONE)

    np.testing.assert_allclose(of_many, (entropies * WEIGHTS).mean(axis=1), rtol=1e-5)
    weights = np.asarray(WEIGHTS)[ONE.argmax(axis=1)]
    np.testing.assert_allclose(of_one, single_label.build(CLASSES).losses(LOGITS, ONE) * weights, rtol=1e-5)


def test_probabilities_are_float32_whatever_computed_the_logits():
    halves = tf.cast(LOGITS, tf.bfloat16)
    of_many = multi_label.build(CLASSES).probabilities(halves)
    of_one = single_label.build(CLASSES).probabilities(halves)

    assert of_many.dtype == of_one.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(of_one, axis=1), 1.0, rtol=1e-5)


def test_thresholds_are_fixed_or_chosen_by_the_validation_split():
    labels = np.array([[1, 0], [1, 0], [0, 0]], bool)
    probabilities = np.array([[0.3, 0.2], [0.2, 0.9], [0.1, 0.1]], np.float32)

    assert multi_label.build(2, threshold=0.4).thresholds(labels, probabilities) == [0.4, 0.4]
    # Nobody bears the second class: nothing is known of it.
    chosen = multi_label.build(2, thresholds="validation").thresholds(labels, probabilities)
    assert chosen == [pytest.approx(0.15), 0.5]
    assert single_label.build(2).thresholds(labels, probabilities) == []


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("multi_label", {"threshold": 1.0}, "threshold=1.0; it must lie between 0 and 1"),
        ("multi_label", {"label_smoothing": 1.0}, "label_smoothing=1.0; it must be at least 0 and below 1"),
        ("single_label", {"focal_gamma": -1.0}, "focal_gamma=-1.0; it must be 0 or more"),
        ("single_label", {"class_weights": [1.0]}, "class_weights has 1 values; there are 7 classes"),
        ("multi_label", {"class_weights": [0.0] * 7}, "class_weights holds 0.0; each must be above 0"),
        ("multi_label", {"thresholds": "test"}, "thresholds='test'"),
        ("sorting", {}, "choose one of multi_label, single_label"),
    ],
)
def test_impossible_options_are_refused_with_the_value(task, options, words):
    spec = tiny_spec(task=ComponentSpec(task, options))

    with pytest.raises(ComponentError) as refusal:
        build_task(spec, CLASSES)
    assert words in str(refusal.value)


def test_an_objective_that_the_task_does_not_measure_is_refused_before_a_trial(tmp_path):
    spec = tiny_spec(objective="accuracy_top5", cache_dir=str(tmp_path))

    with pytest.raises(SpecError, match="accuracy_top5"):
        check_spec(spec)
    check_spec(dataclasses.replace(spec, task=ComponentSpec("single_label")))
