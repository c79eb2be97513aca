"""What driver, exporter and predictor write for one another: which trials to export, and what an export holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

EXPORT_FORMAT = 1
"""Counted up when an export's files or their meaning change."""

RECORD_NAME = "export.json"
MODEL_NAME = "model.keras"
SAVED_MODEL_NAME = "saved_model"
CARD_NAME = "model_card.md"


class Activation(StrEnum):
    """What makes probabilities of logits."""

    SIGMOID = "sigmoid"
    """Each class by itself: an image has any number of labels."""


@dataclass(frozen=True)
class TrialToExport:
    """A completed trial, as the database knows it."""

    trial_dir: str
    number: int
    spec_sha256: str
    score: float
    """The objective after the last epoch, on the validation split."""
    f1_micro: float
    f1_macro: float
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the study sampled."""


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


@dataclass(frozen=True)
class ExportedTrial:
    number: int
    score: float
    """The study's objective after the last epoch, on the validation split."""
    spec_sha256: str
    epochs: int


@dataclass(frozen=True)
class ExportRecord:
    """export.json: all that is needed to use the model, for programs."""

    format_version: int
    study_name: str
    study_uuid: str
    objective: str
    trials: tuple[ExportedTrial, ...]
    """More than one: the model gives the mean of their probabilities."""
    activation: Activation
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    """Of each class, the probability above which its label is predicted."""
    input_shape: tuple[int, ...]
    """Of one sample: (height, width, bands), or (values,) where bands of several resolutions are packed."""
    input_dtype: str
    bands: tuple[str, ...] | None
    """None: the data set has no names for them."""
    resizes_images: bool
    """Whether the data set resizes images of another size, bilinearly."""
