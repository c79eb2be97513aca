"""What driver, exporter and predictor write for one another: which trials to export, and what an export holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from storage.protocol.records import ClassScores

EXPORT_FORMAT = 1
"""Counted up when an export's files or their meaning change."""

RECORD_NAME = "export.json"
MODEL_NAME = "model.keras"
SAVED_MODEL_NAME = "saved_model"
CARD_NAME = "model_card.md"


@dataclass(frozen=True)
class SeedInterval:
    """A score over trainings of one configuration that differ in their seed."""

    seeds: int
    mean: float
    deviation: float | None
    """Of the sample, standard; None of one seed, as the next two."""
    low: float | None
    """Of the 95 % interval of the mean, by Student's t; it may reach beyond [0, 1]."""
    high: float | None


@dataclass(frozen=True)
class TrialToExport:
    """A completed trial, as the database knows it."""

    trial_dir: str
    number: int
    spec_sha256: str
    score: float
    """The objective in the counted epoch, on the validation split."""
    epochs: int
    """That were trained; fewer than the specification's where patience ended it."""
    counted_epoch: int
    """Whose weights are exported, from 0."""
    scores: dict[str, float]
    """By the names of SCORES, in the counted epoch on the validation split."""
    classes: ClassScores | None = None
    """Of the counted epoch; None: an older version trained it."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the study sampled."""


@dataclass(frozen=True)
class EvaluatedScores:
    """What an exported trial's configuration scores when it is trained again with other seeds."""

    study_name: str
    """Of the evaluation."""
    seeds: int
    others: dict[str, int]
    """Trainings that are not in the scores, by outcome: diverged, failed, unfinished."""
    validation: dict[str, SeedInterval]
    """By the names of SCORES; as `test`."""
    test: dict[str, SeedInterval]
    """Empty where the test split was not scored."""


@dataclass(frozen=True)
class ExportRequest:
    """What `python -m trainers.export` is asked for, on its standard input."""

    study_name: str
    study_uuid: str
    objective: str
    completed_trials: int
    """Among which the exported ones were chosen."""
    trials: tuple[TrialToExport, ...]
    """More than one: the mean of their probabilities."""
    out_dir: str
    evaluation: EvaluatedScores | None = None
    """None: one trial, and nobody has trained it again; or several."""


@dataclass(frozen=True)
class PredictRequest:
    """What `python -m trainers.predict` is asked for, on its standard input."""

    export_dir: str
    inputs: tuple[str, ...]
    """Files and folders."""
    out: str
    """To write: .csv is a table of the inputs, .tif the map of one scene."""
    stride: int | None = None
    """Of the windows of a scene, in pixels; None: half the model's input."""


@dataclass(frozen=True)
class ExportedTrial:
    number: int
    score: float
    """The study's objective in the counted epoch, on the validation split."""
    spec_sha256: str
    epochs: int
    counted_epoch: int
    """Whose weights these are, from 0."""


@dataclass(frozen=True)
class ExportRecord:
    """export.json: all that is needed to use the model, for programs."""

    format_version: int
    study_name: str
    study_uuid: str
    objective: str
    trials: tuple[ExportedTrial, ...]
    """More than one: the model gives the mean of their probabilities."""
    task: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    """Of each class, the probability above which its label is predicted; empty: the most probable class is."""
    input_shape: tuple[int, ...]
    """Of one sample: (height, width, bands), or (values,) where bands of several resolutions are packed."""
    input_dtype: str
    bands: tuple[str, ...] | None
    """None: the data set has no names for them."""
    resizes_images: bool
    """Whether the data set resizes images of another size, bilinearly."""
