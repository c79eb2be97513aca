"""A trial's network with the weights of the epoch that counts, from stored samples to probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from storage.protocol.exports import TrialToExport
from storage.protocol.records import ObjectiveEpoch, Precision, TrialSpec
from storage.protocol.trial_dir import TrialDir
from trainers import checkpoint, components
from trainers.checkpoint import CheckpointOwner, TrainingState
from trainers.datasets import Dataset
from trainers.faults import CheckpointError, SpecError, values_are_of_the_spec
from trainers.model_graph import restore_layers
from trainers.precision import set_precision
from trainers.tasks import Task, build_task
from trainers.train import build_state, epoch_that_counts

_OLDER_THRESHOLD = 0.5
"""Of each class in trials that an older version trained."""


@dataclass(frozen=True)
class TrainedTrial:
    """A trial as it stood after the epoch that counts."""

    trial: TrialToExport
    spec: TrialSpec
    dataset: Dataset
    task: Task
    network: keras.Model
    """As it was trained: from float32 [n, *dataset.input_shape] to logits."""
    val_loss: float

    @property
    def thresholds(self) -> tuple[float, ...]:
        """As in ClassScores."""
        if self.trial.classes is not None:
            return tuple(self.trial.classes.thresholds)
        return () if self.task.is_single_label else (_OLDER_THRESHOLD,) * len(self.dataset.class_names)


def load_trained(trial: TrialToExport) -> TrainedTrial:
    """Build what the trial's specification names, and restore the weights of the epoch that counts.

    Raises:
        TrialDirError: The trial's folder holds no specification.
        SpecError: It is not the one that the database knows, or cannot be built.
        DatasetError: The data cannot be opened; the preprocessing goes by them.
        CheckpointError: The weights are not there, another trial's, or those of another epoch.
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
        task = build_task(spec, len(dataset.class_names))
    keras.utils.set_random_seed(spec.seed)
    state = build_state(spec, dataset)
    val_loss = _restore_counted_epoch(trial, folder, CheckpointOwner(spec.study_uuid, found), spec, state)
    return TrainedTrial(trial, spec, dataset, task, state.model, val_loss)


def _restore_counted_epoch(
    trial: TrialToExport, folder: TrialDir, owner: CheckpointOwner, spec: TrialSpec, state: TrainingState
) -> float:
    """Put the weights into the state; gives the counted epoch's validation loss."""
    loaded = checkpoint.load_alone(folder, owner, state)
    if loaded is None:
        raise CheckpointError(
            f"{folder.path} holds no checkpoint, so its weights are lost; restore attempt-*/checkpoint.npz, or export "
            "another trial with --trial N."
        )
    progress, best = loaded
    history, takes_best = progress.history, spec.objective_epoch is ObjectiveEpoch.BEST
    # Inside an epoch the state is no epoch's; the best network is one in any case.
    is_whole = best is not None if takes_best else progress.loader_batches == 0
    counted = epoch_that_counts(spec, history) if history and is_whole else None
    if counted != trial.counted_epoch:
        raise CheckpointError(
            f"the newest whole checkpoint in {folder.path}, after {progress.epoch} of {trial.epochs} epochs, does not "
            f"hold the weights of epoch {trial.counted_epoch}, whose score the database has. Restore the last "
            "attempt's checkpoint.npz, or export another trial with --trial N."
        )
    if best is not None:
        state.assign_network(best)
    return history[trial.counted_epoch].val_loss


def with_preprocessing(trained: TrainedTrial) -> keras.Model:
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
    return keras.Model(samples, trained.task.probabilities(logits), name=f"trial_{trained.trial.number:04d}")


def mean_of(models: list[keras.Model]) -> keras.Model:
    """The mean of the models' probabilities; of one model, itself."""
    if len(models) == 1:
        return models[0]
    samples = keras.Input(models[0].input_shape[1:], dtype=models[0].inputs[0].dtype, name="samples")
    outputs = keras.layers.Average(dtype="float32")([model(samples) for model in models])
    return keras.Model(samples, outputs, name="ensemble")
