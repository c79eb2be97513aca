"""The trainer's benchmark, run by each rank under mpirun:
`python -m tests.bench.training_ranks MODEL SIZE MICRO_BATCH SPLIT`.

Rank 0 prints one JSON object. What is compared takes turns, one loader batch or one epoch each, so that a machine
that slows down slows both.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from storage.protocol.records import ComponentSpec, EpochMetrics, TrialSpec
from storage.protocol.trial_dir import TrialDir
from trainers import components
from trainers.checkpoint import CheckpointOwner, Progress
from trainers.communicator import Communicator, configure_threads
from trainers.datasets import Dataset
from trainers.demand import Demand
from trainers.energy.meter import EnergyMeter
from trainers.loader import read_batches, training_order
from trainers.train import Training, build_training, train, train_epoch

_TURNS = 7


def main(model: str, size: int, micro_batch: int, split: int) -> None:
    configure_threads(1, deterministic=False)
    communicator = Communicator()
    spec = _spec(model, size, micro_batch, split, communicator.world_size)
    training = build_training(spec, communicator)
    if communicator.world_size == 1:
        result = {
            "pipeline_to_bare_step": pipeline_to_bare_step(training),
            "keras_to_fused": keras_to_fused(training, micro_batch, split),
        }
    else:
        result = {
            "paper_to_ours": paper_to_ours(training, split),
            "algorithm_1_to_ours": algorithm_1_to_ours(training, split),
            **switch_costs(training),
        }
    if communicator.is_first:
        print(json.dumps(result), flush=True)


def paper_to_ours(training: Training, split: int) -> float:
    """Time of the small phase's loader batch by the paper's program, over ours: Algorithm 1 as printed, of Keras' own
    model and optimizer, its gradients averaged by Horovod's own tape.
    """
    model, optimizer = _of_keras(training)
    weights = [variable.value for variable in model.trainable_variables]

    def average(tape: tf.GradientTape, loss: tf.Tensor) -> list[tf.Tensor]:
        return hvd.DistributedGradientTape(tape).gradient(loss, weights)

    return _small_phase_to_ours(training, split, _algorithm_1(training.dataset, model, optimizer, split, average))


def algorithm_1_to_ours(training: Training, split: int) -> float:
    """Time of the small phase's loader batch by Algorithm 1 as printed, with our model, optimizer and reduction, over
    ours.
    """
    model, optimizer = training.state.model, training.state.optimizer
    weights = [variable.value for variable in model.trainable_variables]

    def average(tape: tf.GradientTape, loss: tf.Tensor) -> list[tf.Tensor]:
        return training.communicator.average_gradients(tape.gradient(loss, weights))

    return _small_phase_to_ours(training, split, _algorithm_1(training.dataset, model, optimizer, split, average))


def _small_phase_to_ours(training: Training, split: int, other: Callable[[tf.Tensor, tf.Tensor], None]) -> float:
    samples, labels = _one_loader_batch(training)

    def ours() -> None:
        rates = tf.fill([split], training.base_learning_rate)
        training.train_step(samples, labels, tf.constant(len(labels) // split), rates).numpy()

    return _ratio(lambda: other(samples, labels), ours)


def keras_to_fused(training: Training, micro_batch: int, split: int) -> float:
    """Time of a step of the same model and optimizer as Keras computes them, over that with fused kernels."""
    state = training.state
    samples, labels = (tensor[:micro_batch] for tensor in _one_loader_batch(training))
    steps_of_keras = _bare_step(training.dataset, *_of_keras(training))
    steps_fused = _bare_step(training.dataset, state.model, state.optimizer)

    def times_split(step: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(split):
                step(samples, labels).numpy()

        return run

    return _ratio(times_split(steps_of_keras), times_split(steps_fused))


def pipeline_to_bare_step(training: Training) -> float:
    """Throughput of an epoch of big batches, with loader and Horovod, over that of the step on a batch in memory."""
    samples, labels = _one_loader_batch(training)
    steps = len(training.train) // training.spec.loader_batch_size
    plan = training.plan(training.policy.global_batch_sizes[-1])
    bare_step = _bare_step(training.dataset, training.state.model, training.state.optimizer)

    def bare() -> None:
        for _ in range(steps):
            loss = bare_step(samples, labels)
        loss.numpy()

    def with_pipeline() -> None:
        train_epoch(training, Progress(), plan, agree=lambda: Demand.NONE)

    return _ratio(bare, with_pipeline)


def switch_costs(training: Training) -> dict[str, float]:
    """First big step after the switch over the median one, and epoch time after over before it."""
    durations: list[float] = []

    def timed_step(*arguments: tf.Tensor) -> tf.Tensor:
        started = time.perf_counter()
        loss = training.train_step(*arguments)
        loss.numpy()
        durations.append(time.perf_counter() - started)
        return loss

    epochs: list[EpochMetrics] = []
    switch_epoch = training.spec.batch_policy.options["switch_epoch"]
    with tempfile.TemporaryDirectory() as scratch:
        attempt = TrialDir(Path(scratch)).new_attempt()
        timed = dataclasses.replace(training, train_step=timed_step)
        owner = CheckpointOwner(study_uuid="", spec_sha256="")
        meter = EnergyMeter(training.communicator, training.communicator.report(threads_per_rank=1))
        train(timed, attempt, owner, lambda: False, epochs.append, meter)
    if not training.communicator.is_first:
        return {}
    per_epoch = len(training.train) // training.spec.world_size // training.spec.loader_batch_size
    # The warm-up's two steps come first.
    big_steps = durations[2 + per_epoch * switch_epoch :]
    return {
        "first_big_step_to_median": big_steps[0] / median(big_steps[1:]),
        "epoch_before_to_after": epochs[0].wall_s / median(m.wall_s for m in epochs[switch_epoch:]),
    }


def _bare_step(
    dataset: Dataset, model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """One update of (samples, labels) that lie in memory, with no Horovod; gives the loss."""
    weights = [variable.value for variable in model.trainable_variables]

    @tf.function
    def bare_step(samples: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(dataset.to_model_input(samples), training=True)
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels, tf.float32), logits=logits)
            )
        optimizer.apply(tape.gradient(loss, weights), model.trainable_variables)
        return loss

    return bare_step


def _of_keras(training: Training) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """The same model and optimizer as Keras makes them."""
    spec, dataset = training.spec, training.dataset
    model = components.build("models", spec.model, dataset.input_shape, len(dataset.class_names))
    optimizer = keras.optimizers.SGD(**spec.optimizer.options)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def _algorithm_1(
    dataset: Dataset,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    split: int,
    average: Callable[[tf.GradientTape, tf.Tensor], list[tf.Tensor]],
) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """The paper's Algorithm 1: np.array_split on the host, one compiled call per micro-batch."""

    @tf.function(reduce_retracing=True)
    def training_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(dataset.to_model_input(images), training=True)
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels, tf.float32), logits=logits)
            )
        optimizer.apply(average(tape, loss), model.trainable_variables)
        return loss

    def run(images: tf.Tensor, labels: tf.Tensor) -> None:
        images_split = np.array_split(images, split)
        labels_split = np.array_split(labels, split)
        for i in range(split):
            loss = training_step(images_split[i], labels_split[i])
        loss.numpy()

    return run


def _ratio(numerator: Callable[[], None], denominator: Callable[[], None]) -> float:
    """Median time of one over median time of the other, in turns, after one turn that is not counted."""
    times: dict[Callable[[], None], list[float]] = {numerator: [], denominator: []}
    for _ in range(1 + _TURNS):
        for run in (numerator, denominator):
            started = time.perf_counter()
            run()
            times[run].append(time.perf_counter() - started)
    return median(times[numerator][1:]) / median(times[denominator][1:])


def _one_loader_batch(training: Training) -> tuple[tf.Tensor, tf.Tensor]:
    communicator = training.communicator
    order = training_order(len(training.train), 0, 0, communicator.rank, communicator.world_size)
    batch = next(read_batches(training.train, order, training.spec.loader_batch_size))
    return batch.samples, batch.labels


def _spec(model: str, size: int, micro_batch: int, split: int, world_size: int) -> TrialSpec:
    keras.utils.set_random_seed(0)
    loader_batch_size = micro_batch * split
    return TrialSpec(
        study_name="bench",
        trial_number=0,
        seed=0,
        epochs=4,
        world_size=world_size,
        loader_batch_size=loader_batch_size,
        model=ComponentSpec(model),
        dataset=ComponentSpec(
            "synthetic_bigearthnet",
            {"train": 4 * loader_batch_size * world_size, "val": 8 * world_size, "size": size},
        ),
        optimizer=ComponentSpec("sgd", {"learning_rate": 1e-5, "momentum": 0.9}),
        batch_policy=ComponentSpec(
            "switch_at_epoch",
            {
                "small_global_batch_size": micro_batch * world_size,
                "large_global_batch_size": loader_batch_size * world_size,
                "switch_epoch": 2,
            },
        ),
        cache_dir=tempfile.gettempdir(),
        checkpoint_every_epochs=4,
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
