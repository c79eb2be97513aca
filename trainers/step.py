"""The compiled calls: one loader batch of training, one batch of evaluation or calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import keras
import tensorflow as tf

from trainers.datasets import AugmentedDataset, Dataset
from trainers.tasks import Task

TrainStep = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
EvaluateStep = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

CalibrateStep = Callable[[tf.Tensor], None]


class GradientAverager(Protocol):
    """What a step needs of the communicator."""

    def average_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]: ...


def compile_train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    dataset: Dataset,
    task: Task,
    communicator: GradientAverager,
    augmentation_seed: tf.Variable,
    part_size: tf.Variable | None = None,
    *,
    jit: bool = False,
) -> TrainStep:
    """Algorithm 1 of the paper as one compiled call:
    (samples, labels, local_batch_size, learning_rates) -> sum of the losses of the samples trained on.

    samples: [n, *sample_shape] as stored; labels: uint8 [n, classes]; local_batch_size: int32 scalar; learning_rates:
    float32 [updates]. Each update takes its learning rate and the next local_batch_size samples; what is behind the
    last one is not looked at. The cut is made on the device, and one trace serves every batch size, so that a switch
    compiles nothing.

    Args:
        augmentation_seed: int64 [2]: the trial's seed and the rank. A variable, so that another trial needs no other
            trace.
        part_size: int32 scalar: samples of whose gradients there is memory for at once. An update of more samples is
            computed part by part, and is a multiple of it. None: each update in one go.
        jit: Have XLA compile the model and its gradient, once per batch size.
    """
    weights = [variable.value for variable in model.trainable_variables]

    def loss_and_gradients(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(task.losses(logits, labels))
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, weights)]

    if jit:
        loss_and_gradients = tf.function(loss_and_gradients, jit_compile=True)

    def differentiate(samples: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        images = dataset.to_model_input(samples)
        if isinstance(dataset, AugmentedDataset):
            images = dataset.augment(images, seed)
        return loss_and_gradients(images, labels)

    def differentiate_parts(
        samples: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The means over parts of one size are those over all samples."""
        parts = tf.maximum(tf.shape(labels)[0] // part_size, 1)
        size = tf.shape(labels)[0] // parts
        loss_sum, sums = tf.constant(0.0), [tf.zeros_like(weight) for weight in weights]
        for i in tf.range(parts):
            part = slice(i * size, (i + 1) * size)
            drawn = tf.random.experimental.stateless_fold_in(seed, i)
            loss, gradients = differentiate(samples[part], labels[part], drawn)
            loss_sum += loss
            sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
        share = 1.0 / tf.cast(parts, tf.float32)
        return loss_sum * share, [total * share for total in sums]

    def update(samples: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        # The optimizer's count is in the checkpoint: a resumed run draws what an uninterrupted one would.
        seed = tf.random.experimental.stateless_fold_in(augmentation_seed, optimizer.iterations)
        loss, gradients = (differentiate if part_size is None else differentiate_parts)(samples, labels, seed)
        optimizer.apply(communicator.average_gradients(gradients), model.trainable_variables)
        return loss

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *dataset.sample_shape], dataset.sample_dtype),
            tf.TensorSpec([None, len(dataset.class_names)], tf.uint8),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([None], tf.float32),
        ]
    )
    def train_on_loader_batch(
        samples: tf.Tensor, labels: tf.Tensor, local_batch_size: tf.Tensor, learning_rates: tf.Tensor
    ) -> tf.Tensor:
        loss_sum = tf.constant(0.0)
        for i in tf.range(tf.shape(learning_rates)[0]):
            optimizer.learning_rate.value.assign(learning_rates[i])
            start = i * local_batch_size
            stop = start + local_batch_size
            loss_sum += update(samples[start:stop], labels[start:stop]) * tf.cast(local_batch_size, tf.float32)
        return loss_sum

    return train_on_loader_batch


def compile_calibrate_step(model: keras.Model, dataset: Dataset) -> CalibrateStep:
    """samples -> nothing: a forward pass as in training, which moves the statistics of batch normalisation.

    samples: [n, *sample_shape] as stored.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, *dataset.sample_shape], dataset.sample_dtype)])
    def calibrate_on_batch(samples: tf.Tensor) -> None:
        model(dataset.to_model_input(samples), training=True)

    return calibrate_on_batch


def compile_evaluate_step(model: keras.Model, dataset: Dataset, task: Task) -> EvaluateStep:
    """(samples, labels, count) -> sum of the samples' losses, and the classes' probabilities: float32 [n, classes].

    count: int32 scalar; the rows behind so many are padding and count as nothing in the sum.
    """

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *dataset.sample_shape], dataset.sample_dtype),
            tf.TensorSpec([None, len(dataset.class_names)], tf.uint8),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def evaluate_batch(samples: tf.Tensor, labels: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        is_sample = tf.range(tf.shape(labels)[0]) < count
        logits = model(dataset.to_model_input(samples), training=False)
        # Chosen, not multiplied by 0: a loss of padding may be infinite.
        losses = tf.where(is_sample, task.losses(logits, labels), 0.0)
        return tf.reduce_sum(losses), task.probabilities(logits)

    return evaluate_batch
