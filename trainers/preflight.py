"""Tries what every trial of a study shares, before anything is submitted: `python -m trainers.preflight FOLDER...`

Each folder holds a spec.json. All are checked without TensorFlow, and get a workload.json that says how much would be
trained; with --build, the first one's model, optimizer and data set are built, and make one update with a small batch.
One process, no MPI: it runs where the driver does.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from storage.protocol.codec import to_json
from storage.protocol.exit_codes import ExitCode
from storage.protocol.records import EpochMetrics, TrialSpec
from storage.protocol.trial_dir import TrialDir
from storage.protocol.workload import WORKLOAD_FILE, Workload
from trainers import components
from trainers.batch_plan import plan_batch, plan_parts
from trainers.batch_policies import BatchPolicy
from trainers.datasets import Dataset, DatasetError, Split, read_samples
from trainers.faults import SpecError, values_are_of_the_spec
from trainers.lean_imports import import_tensorflow
from trainers.onednn import overflowing_convolutions
from trainers.tasks import build_task

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_SAMPLES_TRIED = 4
# Read ahead, waiting and trained on: trainers/loader.py.
_LOADER_BATCHES_IN_MEMORY = 3


def check_spec(spec: TrialSpec, memory_bytes: float = math.inf) -> Dataset:
    """Check all that can be checked without TensorFlow: data set, splits and every batch size. Gives the data set.

    Args:
        memory_bytes: Of one rank.

    Raises:
        SpecError: With what to change.
        DatasetError: The data are not there, or not as they should be.
    """
    with values_are_of_the_spec():
        policy = components.build("batch_policies", spec.batch_policy)
        components.build("learning_rates", spec.learning_rate, spec.epochs)
        for world_size in spec.world_sizes:
            sizes_of_ranks = [spec.scaled_batch(size, world_size) for size in policy.global_batch_sizes]
            plans = [plan_batch(size, world_size, spec.loader_batch_size) for size in sizes_of_ranks]
            plan_parts([plan.local_batch_size for plan in plans], spec.accumulation_steps)
        dataset: Dataset = components.build("datasets", spec.dataset, Path(spec.cache_dir))
        build_task(spec, len(dataset.class_names))
    sizes, most_ranks = dataset.sizes(), max(spec.world_sizes)
    for split in (Split.TRAIN, Split.VAL, *([Split.TEST] if spec.test_split else [])):
        if sizes.get(split, 0) < most_ranks:
            raise SpecError(
                f"the {split} split of {spec.dataset.name} holds {sizes.get(split, 0)} samples; it needs at least one "
                f"for each of the {most_ranks} ranks"
                f"{', or leave the test split out (study/evaluate.py --split val)' * (split is Split.TEST)}."
            )
    _check_loader_batch(spec, dataset, memory_bytes)
    _check_updates(spec, policy, sizes[Split.TRAIN])
    return dataset


def _check_loader_batch(spec: TrialSpec, dataset: Dataset, memory_bytes: float) -> None:
    samples = dataset.sizes()[Split.TRAIN]
    if spec.loader_batch_size > samples:
        raise SpecError(
            f"loader_batch_size={spec.loader_batch_size} is what one rank loads at once, but all {spec.world_size} "
            f"ranks together have {samples} training samples of {spec.dataset.name}; use at most "
            f"{math.ceil(samples / spec.world_size)}."
        )
    stored = math.prod(dataset.sample_shape) * dataset.sample_dtype.itemsize
    converted = math.prod(dataset.input_shape) * np.dtype(np.float32).itemsize
    needed = spec.loader_batch_size * (_LOADER_BATCHES_IN_MEMORY * stored + converted)
    if needed > memory_bytes:
        raise SpecError(
            f"loader_batch_size={spec.loader_batch_size} takes {needed / 2**30:.1f} GiB of each rank for the images "
            f"alone, and a rank has {memory_bytes / 2**30:.1f} GiB; use at most "
            f"{int(spec.loader_batch_size * memory_bytes / needed)}."
        )


def _check_updates(spec: TrialSpec, policy: BatchPolicy, samples: int) -> None:
    """An update has its whole batch, or is not made."""
    for world_size in spec.world_sizes:
        per_rank = samples // world_size
        for size in policy.global_batch_sizes:
            local = spec.scaled_batch(size, world_size) // world_size
            if local > per_rank:
                # In the batch policy's own terms: it knows nothing of more ranks.
                most = next(n for n in range(size, -1, -1) if spec.scaled_batch(n, world_size) <= per_rank * world_size)
                raise SpecError(
                    f"global_batch_size={size} takes {local} samples of each of the {world_size} ranks for one update, "
                    f"but each has {per_rank} training samples of {spec.dataset.name}; use at most {most}."
                )


def workload_of(spec: TrialSpec, dataset: Dataset) -> Workload:
    """How much a trial trains, as far as that can be known before it does."""
    policy: BatchPolicy = components.build("batch_policies", spec.batch_policy)
    schedule: list[int] = []
    # A policy that looks at what was trained has no schedule.
    with contextlib.suppress(_HistoryUnknownError):
        schedule = [policy.global_batch_size(epoch, _UnknownHistory(epoch)) for epoch in range(spec.epochs)]
    return Workload(dataset.sizes()[Split.TRAIN], list(policy.global_batch_sizes), schedule)


class _HistoryUnknownError(LookupError):
    """Somebody has asked how an epoch went that was not trained."""


@dataclass(frozen=True)
class _UnknownHistory(Sequence[EpochMetrics]):
    """So many epochs, of which nothing is known."""

    epochs: int

    def __len__(self) -> int:
        return self.epochs

    def __getitem__(self, index: object) -> NoReturn:
        raise _HistoryUnknownError


def try_build(spec: TrialSpec, dataset: Dataset) -> None:
    """Build the trial and make one update with a few samples.

    Raises:
        SpecError: The model or the optimizer cannot be built like this, or the model does not give logits.
        DatasetError: The data cannot be read.
    """
    import_tensorflow()
    import keras
    import tensorflow as tf

    from trainers.step import compile_train_step
    from trainers.train import build_state

    keras.utils.set_random_seed(spec.seed)
    state = build_state(spec, dataset)
    source = dataset.open(Split.TRAIN)
    samples, labels = map(tf.constant, read_samples(source, np.arange(min(_SAMPLES_TRIED, len(source)))))
    images = dataset.to_model_input(samples)
    _check_convolutions(state.model, spec.model.name)
    _check_outputs(state.model, images, (len(labels), len(dataset.class_names)), spec.model.name)
    seed = tf.Variable([spec.seed, 0], trainable=False, dtype=tf.int64)
    task = build_task(spec, len(dataset.class_names))
    step = compile_train_step(state.model, state.optimizer, dataset, task, _OneRank(), seed, jit=spec.jit)
    step(samples, labels, tf.constant(len(labels)), tf.constant([0.1])).numpy()


def _check_convolutions(model: keras.Model, name: str) -> None:
    if found := overflowing_convolutions(model):
        raise SpecError(
            f"model {name!r} has a 1 x 1 convolution with a stride and fewer than 16 input channels ({found[0]}): its "
            "gradient corrupts memory on a CPU (docs/adr/0006). Take every nth pixel first, as in "
            "features[:, ::stride, ::stride, :], and convolve with stride 1; that gives the same."
        )


def _check_outputs(model: keras.Model, images: tf.Tensor, shape: tuple[int, int], name: str) -> None:
    outputs = model(images, training=False)
    if tuple(outputs.shape) != shape:
        raise SpecError(
            f"model {name!r} gives {tuple(outputs.shape)} for {shape[0]} images of {shape[1]} classes; it must give "
            f"logits of the shape {shape}."
        )
    if _gives_probabilities(model, images):
        raise SpecError(
            f"model {name!r} gives probabilities: all of its outputs are in [0, 1]. Leave out its last activation: "
            "the loss takes logits."
        )


def _gives_probabilities(model: keras.Model, images: tf.Tensor) -> bool:
    """Whether all outputs are in [0, 1], and not by chance, as the few logits of one or two classes may be."""

    def are_within_0_and_1() -> bool:
        values = np.asarray(model(images, training=False), np.float64)
        # A last layer that starts at zero gives zeros.
        return bool(values.any() and ((values >= 0) & (values <= 1)).all())

    def negate_last_layer() -> None:
        for variable in model.trainable_variables[-2:]:
            variable.assign(-variable)

    if not are_within_0_and_1():
        return False
    negate_last_layer()
    stays = are_within_0_and_1()
    negate_last_layer()
    return stays


@dataclass(frozen=True)
class _OneRank:
    """What a step needs of a communicator."""

    rank: int = 0

    def average_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(gradients)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trainers.preflight", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="holds a spec.json")
    parser.add_argument("--build", action="store_true", help="also build the first one, and make one update")
    parser.add_argument("--memory-per-rank", type=float, default=math.inf, metavar="BYTES")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # One that is taken by this process would be missing to a trial; and the login node may have none.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        specs = [TrialDir(folder).read_spec() for folder in arguments.folders]
        datasets = [check_spec(spec, arguments.memory_per_rank) for spec in specs]
        for folder, spec, dataset in zip(arguments.folders, specs, datasets, strict=True):
            (folder / WORKLOAD_FILE).write_text(to_json(workload_of(spec, dataset)))
        if arguments.build:
            try_build(specs[0], datasets[0])
    except (SpecError, DatasetError, components.ComponentMissingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.BAD_SPEC
    return 0


if __name__ == "__main__":
    sys.exit(main())
