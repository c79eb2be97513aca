"""The state of a training, as one file that is replaced by rename: a reader finds a whole checkpoint or the one before.

A checkpoint may lie inside an epoch: the order of the samples is a function of (seed, epoch), so the number of loader
batches that are done says all about the place.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from storage.records import EpochMetrics
from storage.trial_dir import write_atomically
from trainers.communicator import Communicator

Arrays = list[NDArray[Any]]


class CheckpointError(ValueError):
    """A checkpoint does not belong to this trial, or is damaged."""


@dataclass
class Progress:
    """How far the training is. The sums are over what this rank has done of the epoch under way."""

    history: list[EpochMetrics] = field(default_factory=list)
    loader_batches: int = 0
    updates: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    train_s: float = 0.0
    wall_s: float = 0.0
    """Of the epoch, by the attempts before this one."""
    first_batch_s: float = 0.0

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0."""
        return len(self.history)


@dataclass(frozen=True)
class TrainingState:
    """The variables that make a training what it is.

    Trainable variables and those of the optimizer are alike on all ranks at any time. The rest (moving statistics of
    batch normalisation, states of random generators) are each rank's own between two evaluations.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer

    def shared(self) -> list[keras.Variable]:
        return [*self.model.trainable_variables, *self.optimizer.variables]

    def per_rank(self) -> list[keras.Variable]:
        return list(self.model.non_trainable_variables)

    def moving_statistics(self) -> list[keras.Variable]:
        return [v for v in self.model.non_trainable_variables if "float" in v.dtype]

    def random_states(self) -> list[keras.Variable]:
        return [v for v in self.model.non_trainable_variables if "float" not in v.dtype]

    def copy(self) -> Arrays:
        return _values([*self.shared(), *self.per_rank()])

    def assign(self, values: Arrays) -> None:
        _assign([*self.shared(), *self.per_rank()], values)


def save(path: Path, state: TrainingState, progress: Progress, communicator: Communicator) -> None:
    """Write the checkpoint on rank 0. All ranks call it.

    Raises:
        OSError: The file cannot be written; the checkpoint before it stays.
    """
    per_rank = communicator.gather([np.float64(progress.loss_sum), *_values(state.per_rank())])
    if per_rank is None:
        return
    arrays = {f"shared/{i:05d}": value for i, value in enumerate(_values(state.shared()))}
    arrays |= {f"per_rank/{i:05d}": np.stack(values) for i, values in enumerate(zip(*per_rank, strict=True))}
    arrays["progress"] = np.array(json.dumps(dataclasses.asdict(progress)))
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its stub takes any keyword for allow_pickle
    write_atomically(path, content.getvalue())


def load(path: Path, state: TrainingState, communicator: Communicator) -> Progress | None:
    """Restore the checkpoint on all ranks; None if there is none. Only rank 0 reads the file, so all see the same.

    Raises:
        AgreedError: The file is not a checkpoint of this trial.
    """
    content = communicator.broadcast(path.read_bytes() if communicator.is_first and path.exists() else None)
    if content is None:
        return None
    return communicator.all_or_none(lambda: _restore(content, path, state, communicator.rank))


def _restore(content: bytes, path: Path, state: TrainingState, rank: int) -> Progress:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            shared = [arrays[name] for name in sorted(arrays.files) if name.startswith("shared/")]
            per_rank = [arrays[name] for name in sorted(arrays.files) if name.startswith("per_rank/")]
            fields = json.loads(str(arrays["progress"]))
        loss_sum, *values = [of_all_ranks[rank] for of_all_ranks in per_rank]
        _assign(state.shared(), shared)
        _assign(state.per_rank(), values)
        history = [EpochMetrics(**metrics) for metrics in fields["history"]]
        return Progress(**fields | {"history": history, "loss_sum": float(loss_sum)})
    except (ValueError, LookupError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this trial ({error}); remove it to start over."
        ) from error


def _values(variables: list[keras.Variable]) -> Arrays:
    return [np.asarray(v) for v in variables]


def _assign(variables: list[keras.Variable], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        # Keras' own message shows the whole value.
        if value.shape != tuple(variable.shape):
            raise ValueError(f"{variable.path} has the shape {tuple(variable.shape)}, not {value.shape}")
        variable.assign(value)
