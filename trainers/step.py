"""The compiled calls: one loader batch of training, one batch of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import keras
import tensorflow as tf

from trainers.datasets import AugmentedDataset, Dataset

TrainStep = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
EvaluateStep = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class GradientAverager(Protocol):
    """What a step needs of the communicator."""

    @property
    def rank(self) -> int: ...

    def average_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]: ...


def compile_train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    dataset: Dataset,
    communicator: GradientAverager,
    seed: int,
) -> TrainStep:
    """Algorithm 1 of the paper as one compiled call: (samples, labels, micro_batches) -> sum of the samples' losses.

    samples: [n, *sample_shape] as stored; labels: uint8 [n, classes]; micro_batches: int32 scalar, the number of
    optimizer updates. The cut into micro-batches is np.array_split's, made on the device, and one trace serves
    every batch size, so that a switch compiles nothing.
    """
    weights = [variable.value for variable in model.trainable_variables]
    augmentation_seed = tf.constant([seed, communicator.rank], tf.int64)

    def update(samples: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        images = dataset.to_model_input(samples)
        if isinstance(dataset, AugmentedDataset):
            # The optimizer's count is in the checkpoint: a resumed run draws what an uninterrupted one would.
            drawn = tf.random.experimental.stateless_fold_in(augmentation_seed, optimizer.iterations)
            images = dataset.augment(images, drawn)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = _mean_loss(logits, labels)
        gradients = communicator.average_gradients(tape.gradient(loss, weights))
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *dataset.sample_shape], dataset.sample_dtype),
            tf.TensorSpec([None, len(dataset.class_names)], tf.uint8),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def train_on_loader_batch(samples: tf.Tensor, labels: tf.Tensor, micro_batches: tf.Tensor) -> tf.Tensor:
        size = tf.shape(samples)[0] // micro_batches
        longer = tf.shape(samples)[0] % micro_batches
        loss_sum = tf.constant(0.0)
        for i in tf.range(micro_batches):
            start = i * size + tf.minimum(i, longer)
            stop = start + size + tf.cast(i < longer, tf.int32)
            loss = update(samples[start:stop], labels[start:stop])
            loss_sum += loss * tf.cast(stop - start, tf.float32)
        return loss_sum

    return train_on_loader_batch


def compile_evaluate_step(model: keras.Model, dataset: Dataset) -> EvaluateStep:
    """(samples, labels) -> sum of the samples' losses, and int64 [3, classes] true positives, false positives and
    false negatives at a probability of 0.5."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *dataset.sample_shape], dataset.sample_dtype),
            tf.TensorSpec([None, len(dataset.class_names)], tf.uint8),
        ]
    )
    def evaluate_batch(samples: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = model(dataset.to_model_input(samples), training=False)
        predicted = logits > 0.0
        actual = labels > 0
        hits = [predicted & actual, predicted & ~actual, ~predicted & actual]
        counts = tf.stack([tf.reduce_sum(tf.cast(hit, tf.int64), axis=0) for hit in hits])
        return _mean_loss(logits, labels) * tf.cast(tf.shape(labels)[0], tf.float32), counts

    return evaluate_batch


def _mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Sigmoid cross-entropy, averaged over samples and classes."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels, tf.float32), logits=logits))
