"""How long the training step takes: one way to compute it, in both phases."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from storage.protocol.gpu_check import PhaseFacts, ProgramFacts, StepProgram
from storage.protocol.records import ComponentSpec, TrialSpec
from trainers import components
from trainers.batch_plan import evaluation_batch_size, plan_parts
from trainers.checkpoint import TrainingState
from trainers.communicator import Communicator
from trainers.datasets import Dataset, Split
from trainers.faults import values_are_of_the_spec
from trainers.gpu_check.stopwatch import time_call, time_calls, with_peak_bytes
from trainers.precision import set_precision
from trainers.step import EvaluateStep, TrainStep, compile_evaluate_step, compile_train_step
from trainers.tasks import build_task
from trainers.train import build_state

# Digital numbers of Sentinel-2, or all that a smaller type holds.
_LARGEST_VALUE = 4096
# The bundled optimizers as Keras computes them.
_OF_KERAS = {"sgd": "keras.optimizers:SGD", "adamw": "keras.optimizers:AdamW"}


def measure_program(
    program: StepProgram,
    spec: TrialSpec,
    dataset: Dataset,
    local_batch_sizes: Sequence[int],
    communicator: Communicator,
) -> ProgramFacts:
    """Build a trial's step in one form, run it as the epochs of each phase do, and time it. A collective.

    The calls are those of training: a loader batch that holds one update of the largest batch, or several of a smaller
    one, with gradients averaged over all ranks. The samples are noise and the learning rate is 0, which takes as long.

    Args:
        local_batch_sizes: Samples of an update on one rank, ascending.
    """
    started_s = time.perf_counter()
    built = _build(program, spec, dataset, local_batch_sizes, communicator)
    built_s = time.perf_counter()
    # As before epoch 0 of a trial: a switch of the batch size then compiles nothing.
    warm_peaks = [with_peak_bytes(partial(built.warm_up, size))[1] for size in local_batch_sizes]
    warm_up_s = time.perf_counter() - built_s
    phases = [built.measure_phase(size, peak) for size, peak in zip(local_batch_sizes, warm_peaks, strict=True)]
    return ProgramFacts(built_s - started_s, warm_up_s, tuple(phases), built.evaluation_s())


def build_program_state(program: StepProgram, spec: TrialSpec, dataset: Dataset) -> TrainingState:
    """Model and optimizer of a trial, in the form that the program names."""
    # Whatever was measured before takes memory until it is collected.
    keras.utils.clear_session()
    gc.collect()
    keras.utils.set_random_seed(spec.seed)
    if program.fused:
        return build_state(replace(spec, precision=program.precision), dataset)
    set_precision(program.precision)
    optimizer_spec = spec.optimizer
    if (name := _OF_KERAS.get(optimizer_spec.name)) is not None:
        optimizer_spec = ComponentSpec(name, optimizer_spec.options)
    with values_are_of_the_spec():
        model = components.build("models", spec.model, dataset.input_shape, len(dataset.class_names))
        optimizer = components.build("optimizers", optimizer_spec, model)
        optimizer.build(model.trainable_variables)
    return TrainingState(model, optimizer)


@dataclass(frozen=True)
class _BuiltProgram:
    """A step that can be called."""

    communicator: Communicator
    train_step: TrainStep
    evaluate_step: EvaluateStep
    samples: tf.Tensor
    """Of the largest batch, [n, *sample_shape]."""
    labels: tf.Tensor
    evaluation_samples: int
    """That each rank evaluates."""

    def warm_up(self, local_batch_size: int) -> None:
        """Two updates where a loader batch holds several: the loop is warm then."""
        time_call(lambda: self._train(local_batch_size, min(2, self._updates(local_batch_size))), self.communicator)

    def measure_phase(self, local_batch_size: int, warm_peak_bytes: int) -> PhaseFacts:
        updates = self._updates(local_batch_size)
        (first_s, calls_s), peak_bytes = with_peak_bytes(
            lambda: time_calls(lambda: self._train(local_batch_size, updates), self.communicator)
        )
        return PhaseFacts(
            local_batch_size=local_batch_size,
            update_s=tuple(seconds / updates for seconds in calls_s),
            first_update_s=first_s / updates,
            peak_bytes=self.communicator.max(max(warm_peak_bytes, peak_bytes)) or None,
        )

    def evaluation_s(self) -> float:
        batch_size = evaluation_batch_size(self.evaluation_samples, len(self.labels))
        batch = self.samples[:batch_size], self.labels[:batch_size], tf.constant(batch_size)
        _, (*_, batch_s) = time_calls(lambda: self.evaluate_step(*batch)[0], self.communicator)
        return batch_s * math.ceil(self.evaluation_samples / batch_size)

    def _train(self, local_batch_size: int, updates: int) -> tf.Tensor:
        return self.train_step(self.samples, self.labels, tf.constant(local_batch_size), tf.zeros([updates]))

    def _updates(self, local_batch_size: int) -> int:
        return len(self.labels) // local_batch_size


def _build(
    program: StepProgram,
    spec: TrialSpec,
    dataset: Dataset,
    local_batch_sizes: Sequence[int],
    communicator: Communicator,
) -> _BuiltProgram:
    state = build_program_state(program, spec, dataset)
    task = build_task(spec, len(dataset.class_names))
    seed = tf.Variable([spec.seed, communicator.rank], trainable=False, dtype=tf.int64)
    part_size = None
    if spec.accumulation_steps > 1:
        parts = plan_parts(local_batch_sizes, spec.accumulation_steps)
        part_size = tf.Variable(parts, trainable=False, dtype=tf.int32)
    train_step = compile_train_step(
        state.model, state.optimizer, dataset, task, communicator, seed, part_size, jit=program.jit
    )
    samples, labels = _noise(dataset, max(local_batch_sizes))
    return _BuiltProgram(
        communicator,
        train_step,
        compile_evaluate_step(state.model, dataset, task),
        samples,
        labels,
        math.ceil(dataset.sizes()[Split.VAL] / communicator.world_size),
    )


def _noise(dataset: Dataset, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples as they are stored, and labels of one class each, which suit every task."""
    dtype = dataset.sample_dtype
    largest = min(_LARGEST_VALUE, int(np.iinfo(dtype).max))
    drawn = np.random.default_rng(0).integers(0, largest, (count, *dataset.sample_shape), dtype)
    labels = np.eye(len(dataset.class_names), dtype=np.uint8)[np.arange(count) % len(dataset.class_names)]
    # On the device, where the loader's thread has put them before they are trained on.
    return tf.identity(tf.constant(drawn)), tf.constant(labels)
