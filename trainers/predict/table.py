"""Predictions as a table: a row per image, with its labels and the probability of each class."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from storage.protocol.exports import ExportRecord
from trainers.metrics import predict_labels
from trainers.predict.exported import BATCH_SIZE, Classify
from trainers.predict.samples import InputFile, read_samples

LABEL_SEPARATOR = ";"
"""Names of classes have commas in them."""


def write_table(
    path: Path, files: Sequence[InputFile], record: ExportRecord, classify: Classify, report: Callable[[int], None]
) -> None:
    """Write the columns file, labels and one per class, with probabilities of 9 digits, as float32 has.

    Args:
        report: Called with the number of samples that are done since the last call.

    Raises:
        PredictionError, DatasetError: An image cannot be read, or does not fit the model.
        OSError: The table cannot be written.
    """
    samples = read_samples(files, record)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "labels", *record.classes])
        while batch := list(islice(samples, BATCH_SIZE)):
            probabilities = classify(np.stack([pixels for _, pixels in batch]))
            predicted = predict_labels(probabilities, record.thresholds)
            for (name, _), of_classes, is_predicted in zip(batch, probabilities, predicted, strict=True):
                labels = [label for label, holds in zip(record.classes, is_predicted, strict=True) if holds]
                table.writerow([name, LABEL_SEPARATOR.join(labels), *(f"{p:.9g}" for p in of_classes)])
            report(len(batch))
