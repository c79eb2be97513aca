"""A trial that one rank has trained, as the study's database would know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storage.protocol.exports import ExportRequest, TrialToExport
from storage.protocol.records import Outcome
from storage.protocol.trial_dir import TrialDir
from tests.trainers.tiny_trial import Run, open_attempt, switch_at, tiny_spec
from trainers.datasets import Split, read_samples
from trainers.export.trained_model import load_trained
from trainers.step import compile_evaluate_step


def train_trial(folder: Path, number: int = 0, **changes: Any) -> TrialToExport:
    """Two epochs on one rank. `changes` are fields of the specification."""
    defaults = {
        "epochs": 2,
        "world_size": 1,
        "loader_batch_size": 16,
        "batch_policy": switch_at(1),
        "cache_dir": str(folder.parent / "cache"),
    }
    spec = tiny_spec(trial_number=number, **{**defaults, **changes})
    end = Run(open_attempt(folder, spec)).end()
    assert end.result is not None, end
    assert end.result.outcome is Outcome.COMPLETED
    counted = end.result.epochs[end.result.counted_epoch]
    return TrialToExport(
        trial_dir=str(folder),
        number=number,
        spec_sha256=TrialDir(folder).spec_sha256(),
        score=counted.score(spec.objective),
        epochs=len(end.result.epochs),
        counted_epoch=counted.epoch,
        scores=counted.scores,
        classes=end.result.classes,
    )


def request_for(out_dir: Path, *trials: TrialToExport) -> ExportRequest:
    return ExportRequest("tiny", "", "f1_micro", len(trials), tuple(trials), str(out_dir))


def evaluate_as_the_trainer(trial: TrialToExport, split: Split = Split.TEST) -> tuple[np.ndarray, np.ndarray]:
    """A split's samples, and the probabilities that the trainer's own compiled evaluation gives of them."""
    loaded = load_trained(trial)
    samples, labels = read_samples(source := loaded.dataset.open(split), np.arange(len(source)))
    evaluate = compile_evaluate_step(loaded.network, loaded.dataset, loaded.task)
    return samples, evaluate(samples, labels, len(samples))[1].numpy()
