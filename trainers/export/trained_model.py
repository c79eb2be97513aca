"""A trial's network with the weights of its last checkpoint, from stored samples to probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from storage.protocol.exports import Activation, TrialToExport
from storage.protocol.records import Precision, TrialSpec
from storage.protocol.trial_dir import TrialDir
from trainers import checkpoint, components
from trainers.checkpoint import CheckpointOwner, Progress
from trainers.datasets import Dataset
from trainers.faults import CheckpointError, SpecError, values_are_of_the_spec
from trainers.model_graph import restore_layers
from trainers.precision import set_precision
from trainers.probabilities import probabilities
from trainers.train import build_state


@dataclass(frozen=True)
class TrainedTrial:
    """A trial as it stood after its last epoch."""

    trial: TrialToExport
    spec: TrialSpec
    dataset: Dataset
    network: keras.Model
    """As it was trained: from float32 [n, *dataset.input_shape] to logits."""
    progress: Progress


def load_trained(trial: TrialToExport) -> TrainedTrial:
    """Build what the trial's specification names, and restore its last checkpoint.

    Raises:
        TrialDirError: The trial's folder holds no specification.
        SpecError: It is not the one that the database knows, or cannot be built.
        DatasetError: The data cannot be opened; the preprocessing goes by them.
        CheckpointError: The weights are not there, another trial's, or not those of the last epoch.
    """
    folder = TrialDir(Path(trial.trial_dir))
    spec, found = folder.read_spec(), folder.spec_sha256()
    if found != trial.spec_sha256:
        raise SpecError(
            f"{folder.path} trains specification {found[:12]}, and trial {trial.number} in the database is "
            f"specification {trial.spec_sha256[:12]}; restore the folder that the study wrote."
        )
    with values_are_of_the_spec():
        dataset: Dataset = components.build("datasets", spec.dataset, Path(spec.cache_dir))
    keras.utils.set_random_seed(spec.seed)
    state = build_state(spec, dataset)
    progress = checkpoint.load_alone(folder, CheckpointOwner(spec.study_uuid, found), state)
    if progress is None:
        raise CheckpointError(
            f"{folder.path} holds no checkpoint, so its weights are lost; restore attempt-*/checkpoint.npz, or export "
            "another trial with --trial N."
        )
    if progress.epoch < spec.epochs:
        raise CheckpointError(
            f"the newest whole checkpoint in {folder.path} is of epoch {progress.epoch} of {spec.epochs}: the score is "
            "that of other weights. Restore the last attempt's checkpoint.npz, or export another trial with --trial N."
        )
    return TrainedTrial(trial, spec, dataset, state.model, progress)


def with_preprocessing(trained: TrainedTrial, activation: Activation) -> keras.Model:
    """Stored samples [n, *sample_shape] to probabilities float32 [n, classes], in Keras' own layers only.

    Raises:
        SpecError: The network is not a graph of layers.
    """
    # What is around the network computes in float32, whatever the network does.
    set_precision(Precision.FLOAT32)
    try:
        network = restore_layers(trained.network)
    except TypeError as error:
        raise SpecError(f"model {trained.spec.model.name!r} cannot be exported: {error}.") from error
    dataset = trained.dataset
    samples = keras.Input(dataset.sample_shape, dtype=str(dataset.sample_dtype), name="samples")
    logits = network(dataset.to_model_input(samples), training=False)
    return keras.Model(samples, probabilities(logits, activation), name=f"trial_{trained.trial.number:04d}")


def mean_of(models: list[keras.Model]) -> keras.Model:
    """The mean of the models' probabilities; of one model, itself."""
    if len(models) == 1:
        return models[0]
    samples = keras.Input(models[0].input_shape[1:], dtype=models[0].inputs[0].dtype, name="samples")
    outputs = keras.layers.Average(dtype="float32")([model(samples) for model in models])
    return keras.Model(samples, outputs, name="ensemble")
