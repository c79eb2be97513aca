"""An export as something that classifies: its record, checked, and its model, compiled."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.protocol.codec import RecordError, from_json
from storage.protocol.exports import EXPORT_FORMAT, MODEL_NAME, RECORD_NAME, ExportRecord
from trainers.predict import PredictionError

Classify = Callable[[NDArray[np.integer]], NDArray[np.float32]]
"""Stored samples [n, *input_shape] to probabilities [n, classes]."""

BATCH_SIZE = 32
"""Samples that are classified at once."""


def read_record(folder: Path) -> ExportRecord:
    """What the export is.

    Raises:
        PredictionError: The folder is not an export, or one of a later version.
    """
    path = folder / RECORD_NAME
    try:
        record = from_json(ExportRecord, path.read_text(), ignore_unknown=True)
    except OSError as error:
        raise PredictionError(
            f"{folder} is not an export: {RECORD_NAME} cannot be read ({error.strerror}); name a folder that "
            "study/export.py has written."
        ) from error
    except (RecordError, UnicodeDecodeError) as error:
        raise PredictionError(f"{path} is damaged ({error}); export the trial again.") from error
    if record.format_version > EXPORT_FORMAT:
        raise PredictionError(
            f"{path} has format {record.format_version}, and this version reads up to {EXPORT_FORMAT}; update it."
        )
    return record


def load_classifier(folder: Path, record: ExportRecord) -> Classify:
    """The export's model.

    Raises:
        PredictionError: It is not there, or damaged.
    """
    import keras
    import tensorflow as tf

    try:
        model = keras.models.load_model(folder / MODEL_NAME, compile=False)
    # What a damaged archive is, depends on where it is damaged.
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise PredictionError(f"{folder / MODEL_NAME} cannot be loaded ({error}); export the trial again.") from error

    @tf.function(input_signature=[tf.TensorSpec([None, *record.input_shape], record.input_dtype)])
    def classify(samples: tf.Tensor) -> tf.Tensor:
        return model(samples, training=False)

    return lambda samples: np.asarray(classify(tf.constant(samples)))
