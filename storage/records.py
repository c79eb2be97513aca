"""The wire types: what driver, runner and ranks write for one another, as JSON.

Standard library only, because every process of the system imports this module, the ranks among them.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Record = TypeVar("Record")


class RecordError(ValueError):
    """A JSON document does not describe the record that was asked for."""


class Outcome(StrEnum):
    """How an attempt ended on purpose. A crash has no outcome: it leaves no result behind."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    PAUSED = "paused"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class ComponentSpec:
    """A model, dataset, optimizer or batch policy: its file's name under trainers/ and its build options."""

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class TrialSpec:
    """All that the ranks need to know to train one trial."""

    study_name: str
    trial_number: int
    seed: int
    """Of the initial weights and of the order of the samples."""
    epochs: int
    world_size: int
    loader_batch_size: int
    """Samples per rank that the input pipeline hands over at once."""
    model: ComponentSpec
    dataset: ComponentSpec
    optimizer: ComponentSpec
    batch_policy: ComponentSpec
    cache_dir: str
    """Where decoded data sets are kept, shared by all trials."""
    checkpoint_every_epochs: int = 1
    deterministic: bool = False
    """Op determinism and one thread: slower, bit-identical when repeated."""


@dataclass(frozen=True)
class EpochMetrics:
    """One finished epoch: a line of metrics.jsonl."""

    epoch: int
    train_loss: float
    val_loss: float
    f1_micro: float
    f1_macro: float
    global_batch_size: int
    learning_rate: float
    updates: int
    """Optimizer updates."""
    samples: int
    """Training samples seen, over all ranks."""
    samples_per_s: float
    """Training throughput over all ranks, evaluation excluded."""
    first_batch_s: float
    """Duration of the first loader batch, in which a new batch size would pay for its set-up."""
    wall_s: float
    """Duration of the whole epoch, training and evaluation."""


@dataclass(frozen=True)
class CommunicatorReport:
    """What the ranks found out about themselves before epoch 0: nobody has to believe that NCCL was used."""

    world_size: int
    hosts: list[str]
    """Host name of each rank, in rank order."""
    data_plane: str
    """What moves the gradients: nccl, mpi or gloo."""
    nccl_built: bool
    mpi_built: bool
    gloo_built: bool
    mpi_enabled: bool
    gloo_enabled: bool
    gpus: list[str]
    """Model and number on its node of each rank's GPU, or the empty string, in rank order."""
    threads_per_rank: int
    versions: dict[str, str]


@dataclass(frozen=True)
class TrialResult:
    """The end of an attempt that ended as it should: result.json."""

    outcome: Outcome
    epochs_done: int
    reason: str = ""


def to_json(record: Any) -> str:
    """The record on one line. NaN and infinity are written as JavaScript spells them, as `json` does."""
    return json.dumps(dataclasses.asdict(record))


def from_json(kind: type[Record], text: str) -> Record:
    """The record that `text` describes.

    Raises:
        RecordError: The text is no JSON object, lacks a field or has one too many.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{kind.__name__}: not JSON ({error}): {text[:80]!r}") from error
    return _decode(kind, value, kind.__name__)


def _decode(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    if isinstance(kind, types.UnionType):
        return value
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError as error:
            raise RecordError(f"{where} is {value!r}; it must be one of {', '.join(kind)}.") from error
    expected = typing.get_origin(kind) or kind
    if expected is float and type(value) is int:
        return float(value)
    if expected is not Any and (not isinstance(value, expected) or (expected is int and isinstance(value, bool))):
        raise RecordError(f"{where} is {value!r}; it must be of type {expected.__name__}.")
    return value


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise RecordError(f"{where} is {value!r}; it must be a JSON object.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise RecordError(f"{where} has unknown fields {', '.join(unknown)}; valid are {', '.join(fields)}.")
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecordError(f"{where} lacks {', '.join(missing)}.")
    kinds = typing.get_type_hints(kind)
    return kind(**{name: _decode(kinds[name], value[name], f"{where}.{name}") for name in value})
