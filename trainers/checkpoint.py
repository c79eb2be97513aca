"""The state of a training, as one file that is replaced by rename: a reader finds a whole checkpoint or the one before.

A checkpoint lies with its attempt. The next attempt goes on from the newest one, or from the one before it should that
be damaged: older ones are removed.

A checkpoint may lie inside an epoch: the order of the samples is a function of (seed, epoch), so the number of loader
batches that are done says all about the place. Between two epochs the ranks may become more or fewer: what all of them
share is in it once, and what each has for itself comes from the first one's.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from storage.protocol.codec import from_plain, to_plain
from storage.protocol.records import EpochMetrics
from storage.protocol.trial_dir import AttemptDir, TrialDir
from trainers.faults import CheckpointError

if TYPE_CHECKING:
    from trainers.communicator import Communicator

Arrays = list[NDArray[Any]]

# The newest attempt's, and one to fall back on.
_CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class CheckpointOwner:
    """Whose checkpoint it is: written into it, and compared when it is read."""

    study_uuid: str
    spec_sha256: str

    def __str__(self) -> str:
        return f"study {self.study_uuid or '(none)'}, specification {self.spec_sha256[:12]}"


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
    energy_by_counter_j: dict[str, float] = field(default_factory=dict)
    """In that time."""
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

    def network(self) -> list[keras.Variable]:
        """What a prediction depends on."""
        return [*self.model.trainable_variables, *self.moving_statistics()]

    def fold_rank_into_seeds(self, rank: int) -> None:
        """Give the generators of a rank seeds of their own: with one dropout mask for all ranks, its noise would not
        average out over the global batch."""
        for variable in self.random_states():
            seeds = np.random.SeedSequence([*np.asarray(variable).tolist(), rank])
            variable.assign(seeds.generate_state(variable.shape[0]).astype(variable.dtype))

    def copy_network(self) -> Arrays:
        return [value.copy() for value in _values(self.network())]

    def assign_network(self, values: Arrays) -> None:
        _assign(self.network(), values)

    def copy(self) -> Arrays:
        return _values([*self.shared(), *self.per_rank()])

    def assign(self, values: Arrays) -> None:
        _assign([*self.shared(), *self.per_rank()], values)


def save(
    attempt: AttemptDir,
    owner: CheckpointOwner,
    state: TrainingState,
    progress: Progress,
    communicator: Communicator,
    best: Arrays | None = None,
) -> None:
    """Write the attempt's checkpoint on rank 0. All ranks call it.

    Args:
        best: The network of the best epoch of the history, on rank 0, where that is not simply the state's: in the same
            file, so that both are of one history.

    Raises:
        OSError: The file cannot be written; the checkpoint before it stays.
    """
    per_rank = communicator.gather([np.float64(progress.loss_sum), *_values(state.per_rank())])
    if per_rank is None:
        return
    arrays = {f"shared/{i:05d}": value for i, value in enumerate(_values(state.shared()))}
    arrays |= {f"per_rank/{i:05d}": np.stack(values) for i, values in enumerate(zip(*per_rank, strict=True))}
    arrays |= {f"best/{i:05d}": value for i, value in enumerate(best or [])}
    arrays["progress"] = np.array(json.dumps(to_plain(progress)))
    arrays["owner"] = np.array(json.dumps({**to_plain(owner), "attempt": attempt.number}))
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its stub takes any keyword for allow_pickle
    attempt.files.write_atomically(attempt.checkpoint_path, content.getvalue())
    for path in attempt.trial.checkpoints()[_CHECKPOINTS_KEPT:]:
        attempt.files.remove(path)


def load(
    attempt: AttemptDir, owner: CheckpointOwner, state: TrainingState, communicator: Communicator
) -> tuple[Progress, Arrays | None] | None:
    """Restore the trial's newest checkpoint on all ranks; gives the progress and the best epoch's network, or None if
    there is no checkpoint. Only rank 0 reads files, so all see the same.

    Raises:
        AgreedError: The newest checkpoint is not one of this trial.
    """
    newest = communicator.broadcast(_read_newest(attempt.trial) if communicator.is_first else None)
    if newest is None:
        return None
    path, content = newest
    ranks = communicator.rank, communicator.world_size
    return communicator.run_on_all_ranks(lambda: _restore(content, path, owner, state, *ranks))


def load_alone(trial: TrialDir, owner: CheckpointOwner, state: TrainingState) -> tuple[Progress, Arrays | None] | None:
    """As `load`, in a process that is not a rank: what rank 0 would restore.

    Raises:
        CheckpointError: The newest checkpoint is not one of this trial.
    """
    newest = _read_newest(trial)
    return None if newest is None else _restore(newest[1], newest[0], owner, state, rank=0, world_size=None)


def _read_newest(trial: TrialDir) -> tuple[Path, bytes] | None:
    """The trial's newest checkpoint that is whole."""
    for path in trial.checkpoints():
        content = trial.files.read(path)
        try:
            with zipfile.ZipFile(io.BytesIO(content or b"")) as archive:
                damaged = archive.testzip()
        # What zipfile makes of a flag or a compression method that has turned into another one is a RuntimeError.
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError) as error:
            damaged = str(error)
        if content is not None and damaged is None:
            return path, content
        print(f"{path} is damaged ({damaged}) and passed over", file=sys.stderr, flush=True)
    return None


def _restore(
    content: bytes, path: Path, owner: CheckpointOwner, state: TrainingState, rank: int, world_size: int | None
) -> tuple[Progress, Arrays | None]:
    """Args: world_size: None: as many as wrote it."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            written = json.loads(str(arrays["owner"]))
            _require_owner(CheckpointOwner(written["study_uuid"], written["spec_sha256"]), owner, path)
            shared = [arrays[name] for name in sorted(arrays.files) if name.startswith("shared/")]
            per_rank = [arrays[name] for name in sorted(arrays.files) if name.startswith("per_rank/")]
            best = [arrays[name] for name in sorted(arrays.files) if name.startswith("best/")]
            progress = from_plain(Progress, json.loads(str(arrays["progress"])), ignore_unknown=True)
        is_of_as_many = world_size in (None, len(per_rank[0]))
        # Moving statistics are alike on all ranks between two epochs. Sums of an epoch under way are no use to others.
        loss_sum, *values = [of_all_ranks[rank if is_of_as_many else 0] for of_all_ranks in per_rank]
        _assign(state.shared(), shared)
        _assign(state.per_rank(), values)
        if not is_of_as_many:
            state.fold_rank_into_seeds(rank)
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this trial ({error}); remove it to start over."
        ) from error
    progress.loss_sum = float(loss_sum)
    return progress, best or None


def _require_owner(found: CheckpointOwner, owner: CheckpointOwner, path: Path) -> None:
    if found != owner:
        raise CheckpointError(f"{path} is of {found}, and this trial is of {owner}; move it away to start over.")


def _values(variables: list[keras.Variable]) -> Arrays:
    return [np.asarray(v) for v in variables]


def _assign(variables: list[keras.Variable], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        # Keras' own message shows the whole value.
        if value.shape != tuple(variable.shape):
            raise ValueError(f"{variable.path} has the shape {tuple(variable.shape)}, not {value.shape}")
        variable.assign(value)
