"""The export as files: written aside, checked, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import keras
import numpy as np
import tensorflow as tf

from storage.protocol.codec import to_json
from storage.protocol.exports import (
    CARD_NAME,
    EXPORT_FORMAT,
    MODEL_NAME,
    RECORD_NAME,
    SAVED_MODEL_NAME,
    ExportedTrial,
    ExportRecord,
    ExportRequest,
)
from storage.protocol.records import Precision
from trainers.datasets import BandedDataset, Split, read_samples
from trainers.datasets.image_folder import ImageFolder
from trainers.export.card import render_card
from trainers.export.trained_model import TrainedTrial, load_trained, mean_of, with_preprocessing
from trainers.faults import SpecError

# Compared with the trainer's own forward pass before the folder gets its name.
_SAMPLES_COMPARED = 64
_TOLERANCE = {Precision.FLOAT32: 1e-5, Precision.TF32: 1e-2, Precision.BFLOAT16: 5e-2}


class ExportError(ValueError):
    """The export cannot be made as it was asked for."""


def export(request: ExportRequest) -> None:
    """Write the folder that the request names.

    Raises:
        ExportError: It is there already, the trials cannot be put together, or what was written computes something
            else than the trainer.
        SpecError, DatasetError, CheckpointError, OSError: A trial cannot be restored.
    """
    with _written_aside(Path(request.out_dir)) as scratch:
        trained = [load_trained(trial) for trial in request.trials]
        _require_alike(trained)
        model = mean_of([with_preprocessing(each) for each in trained])
        model.save(scratch / MODEL_NAME)
        model.export(scratch / SAVED_MODEL_NAME, verbose=False)
        record = _record(request, trained)
        (scratch / RECORD_NAME).write_text(to_json(record))
        (scratch / CARD_NAME).write_text(render_card(request, record, trained))
        _require_trainers_outputs(scratch, trained)


@contextmanager
def _written_aside(out_dir: Path) -> Iterator[Path]:
    if out_dir.exists():
        raise ExportError(f"{out_dir} is there already; give another --out, or remove it first.")
    scratch = out_dir.with_name(f".{out_dir.name}.partial-{os.getpid()}")
    scratch.mkdir(parents=True)
    try:
        yield scratch
        scratch.rename(out_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _require_alike(trained: Sequence[TrainedTrial]) -> None:
    first = trained[0]
    for other in trained[1:]:
        values = {
            "task": (first.spec.task.name, other.spec.task.name),
            "class_names": (first.dataset.class_names, other.dataset.class_names),
            "sample_shape": (first.dataset.sample_shape, other.dataset.sample_shape),
            "sample_dtype": (first.dataset.sample_dtype, other.dataset.sample_dtype),
        }
        for name, (value, other_value) in values.items():
            if value != other_value:
                raise ExportError(
                    f"trials {first.trial.number} and {other.trial.number} cannot be put together: {name} is {value} "
                    f"in one and {other_value} in the other. Export one of them with --trial N."
                )


def _record(request: ExportRequest, trained: Sequence[TrainedTrial]) -> ExportRecord:
    dataset = trained[0].dataset
    return ExportRecord(
        format_version=EXPORT_FORMAT,
        study_name=request.study_name,
        study_uuid=request.study_uuid,
        objective=request.objective,
        trials=tuple(
            ExportedTrial(trial.number, trial.score, trial.spec_sha256, trial.epochs, trial.counted_epoch)
            for trial in request.trials
        ),
        task=trained[0].spec.task.name,
        classes=tuple(dataset.class_names),
        thresholds=_mean_thresholds(trained),
        input_shape=tuple(dataset.sample_shape),
        input_dtype=str(dataset.sample_dtype),
        bands=tuple(dataset.band_names) if isinstance(dataset, BandedDataset) else None,
        resizes_images=isinstance(dataset, ImageFolder) and dataset.size is not None,
    )


def _mean_thresholds(trained: Sequence[TrainedTrial]) -> tuple[float, ...]:
    of_trials = [each.thresholds for each in trained]
    return of_trials[0] if len(set(of_trials)) == 1 else tuple(map(fmean, zip(*of_trials, strict=True)))


def _require_trainers_outputs(folder: Path, trained: Sequence[TrainedTrial]) -> None:
    source = trained[0].dataset.open(Split.VAL)
    samples = tf.constant(read_samples(source, np.arange(min(_SAMPLES_COMPARED, len(source))))[0])
    expected = np.mean(
        [
            each.task.probabilities(each.network(each.dataset.to_model_input(samples), training=False))
            for each in trained
        ],
        axis=0,
    )
    tolerance = _TOLERANCE[trained[0].spec.precision]
    # Kept: a function that is called does not keep the variables of what it was loaded with.
    saved_model = tf.saved_model.load(str(folder / SAVED_MODEL_NAME))
    found = {
        MODEL_NAME: keras.models.load_model(folder / MODEL_NAME)(samples),
        SAVED_MODEL_NAME: saved_model.serve(samples),
    }
    for name, outputs in found.items():
        difference = float(np.abs(np.asarray(outputs) - expected).max())
        # Written so that NaN is refused, too.
        if not difference <= tolerance:
            raise SpecError(
                f"{name} gives probabilities that differ from the trainer's by up to {difference:.2g}, where "
                f"{tolerance:.0e} is allowed; does a layer of model {trained[0].spec.model.name!r} lose something when "
                "Keras saves it?"
            )
