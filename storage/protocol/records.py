"""The wire types: what driver, runner and ranks write for one another, as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# Of a specification: what does not change what is trained.
_NOT_TRAINED = ("study_name", "study_uuid", "trial_number", "cache_dir", "checkpoint_every_epochs")
# What specifications that are older than these fields trained.
_AS_BEFORE: dict[str, Any] = {"growth": [], "batch_scaling": "per_rank"}


class Precision(StrEnum):
    """In what a model computes. Variables, statistics, logits, loss and reduced gradients are float32 in any case."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    """Products of matrices and convolutions with 10 bits of mantissa, on GPUs that know it; else float32."""
    BFLOAT16 = "bfloat16"


class MovingStatistics(StrEnum):
    """How batch normalisation comes by the statistics that it evaluates with."""

    MOVING = "moving"
    """A moving average over the updates, with each layer's own momentum."""
    SCALED = "scaled"
    """The same, with the momentum to the power of global batch size / smallest global batch size: a sample counts as
    much in a large batch as in a small one."""
    RECALIBRATED = "recalibrated"
    """The mean over training samples as the weights are after the epoch, computed anew before each evaluation."""


class BatchScaling(StrEnum):
    """What becomes of the global batch where a trial's ranks become more."""

    PER_RANK = "per_rank"
    """It grows with them: each rank's share of it stays."""
    GLOBAL = "global"
    """It stays, and each rank's share of it shrinks."""


SCORES = (
    "f1_micro",
    "f1_macro",
    "precision_micro",
    "precision_macro",
    "recall_micro",
    "recall_macro",
    "average_precision_micro",
    "average_precision_macro",
    "accuracy",
    "accuracy_top5",
)
"""Names of scores, each in [0, 1] and better when higher, by scikit-learn's definitions.

accuracy is the share of samples whose labels are all right; accuracy_top5 exists where each sample bears one label of
more than five.
"""


class ObjectiveEpoch(StrEnum):
    """The epoch whose score is a trial's value and whose weights are its network."""

    LAST = "last"
    BEST = "best"
    """The first of those with the highest validation score."""


class Outcome(StrEnum):
    """How an attempt ended on purpose. A failure has no outcome: it leaves no result behind."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    PAUSED = "paused"
    HELD = "held"
    """At a rung of the study's pruner, with a checkpoint; promoted later, or never."""
    DIVERGED = "diverged"


@dataclass(frozen=True)
class ComponentSpec:
    """A component and its build options."""

    name: str
    """A file's name in the folder of its kind under trainers/, or an import path, `package.module:function`."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of component."""

    folder: str
    """Under trainers/, with those that are bundled."""
    given: tuple[str, ...] = ()
    """What the trainer hands to every component of the kind, by position."""


def _kind(folder: str, *given: str) -> dict[str, Kind]:
    return {"kind": Kind(folder, given)}


@dataclass(frozen=True, kw_only=True)
class Components:
    """A component of each kind. Which kinds there are is said here; a config has a table of each field's name."""

    model: ComponentSpec = dataclasses.field(metadata=_kind("models", "input_shape", "class_count"))
    dataset: ComponentSpec = dataclasses.field(metadata=_kind("datasets", "cache_dir"))
    task: ComponentSpec = dataclasses.field(
        default=ComponentSpec("multi_label"), metadata=_kind("tasks", "class_count")
    )
    optimizer: ComponentSpec = dataclasses.field(metadata=_kind("optimizers", "model"))
    learning_rate: ComponentSpec = dataclasses.field(
        default=ComponentSpec("constant"), metadata=_kind("learning_rates", "epochs")
    )
    """Of each update, as a share of the optimizer's."""
    batch_policy: ComponentSpec = dataclasses.field(metadata=_kind("batch_policies"))


KINDS: dict[str, Kind] = {field.name: field.metadata["kind"] for field in dataclasses.fields(Components)}
"""By the name of a component's table in a config."""


@dataclass(frozen=True)
class RankGrowth:
    """From an epoch on, a trial is trained by more ranks than before."""

    epoch: int
    world_size: int


@dataclass(frozen=True)
class TrialSpec(Components):
    """All that the ranks need to know to train one trial."""

    study_name: str
    trial_number: int
    seed: int
    """Of the initial weights and of the order of the samples."""
    epochs: int
    world_size: int
    """Ranks, in the first epoch at least."""
    loader_batch_size: int
    """Samples per rank that the input pipeline hands over at once."""
    cache_dir: str
    """Where decoded data sets are kept, shared by all trials."""
    objective: str = "f1_micro"
    """Of SCORES: the validation score that says which epoch is the best."""
    objective_epoch: ObjectiveEpoch = ObjectiveEpoch.LAST
    patience: int | None = None
    """Epochs without a better score after which the training ends; None: it goes on to its last epoch."""
    test_split: bool = False
    """Whether the test split is scored, once, with the network of the completed trial."""
    checkpoint_every_epochs: int = 1
    accumulation_steps: int = 1
    """Parts of the largest batch, on each rank, whose gradients are averaged into one update."""
    precision: Precision = Precision.FLOAT32
    jit: bool = False
    """Whether XLA compiles the model and its gradient."""
    moving_statistics: MovingStatistics = MovingStatistics.MOVING
    deterministic: bool = False
    """Op determinism and one thread: slower, bit-identical when repeated."""
    study_uuid: str = ""
    """Of the study in the database; several databases may know a study of the same name. Empty: a trial by hand."""
    growth: tuple[RankGrowth, ...] = ()
    """By epoch. Ranks that are not as many as an epoch takes end as held before it, with a checkpoint."""
    batch_scaling: BatchScaling = BatchScaling.PER_RANK
    """What that means for the batch policy's sizes, which are those for `world_size` ranks."""

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """All that the trial is ever trained by."""
        return (self.world_size, *(growth.world_size for growth in self.growth))

    def world_size_at(self, epoch: int) -> int:
        """Ranks that train an epoch."""
        return [self.world_size, *(growth.world_size for growth in self.growth if growth.epoch <= epoch)][-1]

    def scaled_batch(self, global_batch_size: int, world_size: int) -> int:
        """One of the batch policy's sizes, as it is for so many ranks."""
        if self.batch_scaling is BatchScaling.GLOBAL:
            return global_batch_size
        return global_batch_size * world_size // self.world_size


def spec_sha256(spec_json: str) -> str:
    """What tells one specification from another, by the text of its file: 64 hexadecimal digits.

    By the text, because a later version of TrialSpec may have fields that this one's file has not. Whose trial it is
    and where its caches lie do not count.
    """
    fields = {
        name: value
        for name, value in json.loads(spec_json).items()
        if name not in _NOT_TRAINED and (name not in _AS_BEFORE or value != _AS_BEFORE[name])
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


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
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    """On the validation split, by the names of SCORES; empty in what older versions wrote."""
    energy_by_counter_j: dict[str, float] = dataclasses.field(default_factory=dict)
    """Joules of all nodes in `wall_s`, by the counters that all of them have (storage.protocol.energy). Empty: nobody
    measured them."""

    @property
    def energy_j(self) -> float | None:
        """The sum over the counters."""
        return math.fsum(self.energy_by_counter_j.values()) if self.energy_by_counter_j else None

    def score(self, name: str) -> float:
        """A validation score.

        Raises:
            KeyError: It was not measured.
        """
        older = {"f1_micro": self.f1_micro, "f1_macro": self.f1_macro}
        return {**older, **self.scores}[name]


@dataclass(frozen=True)
class ClassScores:
    """What was predicted of each class on the validation split: lists with one entry per class."""

    names: list[str]
    samples: list[int]
    """That bear its label."""
    precision: list[float]
    recall: list[float]
    f1: list[float]
    average_precision: list[float]
    thresholds: list[float]
    """Probabilities above which it was predicted; empty where the most probable class was."""
    confusion: list[list[int]]
    """Where each sample bears one label: samples by true class and predicted class; else empty."""


@dataclass(frozen=True)
class SplitScores:
    """What a completed trial's network scores on a split that had no part in its training or choice."""

    samples: int
    loss: float
    scores: dict[str, float]
    """By the names of SCORES."""
    classes: ClassScores
    """With the thresholds that were chosen on the validation split."""


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
    spec_sha256: str = ""
    """Of what they train, as they read it; empty in what older versions wrote."""
    energy_sources: list[str] = dataclasses.field(default_factory=list)
    """Counters of energy that all nodes have."""
    energy_missing: str = ""
    """Which ones a node lacks, and why; empty if none is missing, and in what older versions wrote."""


@dataclass(frozen=True)
class TrialResult:
    """The end of an attempt that ended as it should: result.json."""

    outcome: Outcome
    epochs_done: int
    reason: str = ""
    epochs: tuple[EpochMetrics, ...] = ()
    """All epochs of the trial up to here, those of earlier attempts included: what led to these weights."""
    loader_batches_done: int = 0
    """Of the epoch under way, when a pause came inside it."""
    spec_sha256: str = ""
    """Of what was trained, as the ranks read it."""
    counted_epoch: int | None = None
    """Of a completed trial: the epoch whose score is its value; the last one where an older version said nothing."""
    classes: ClassScores | None = None
    """Of the counted epoch."""
    test: SplitScores | None = None
    """Where the specification asks for it."""
