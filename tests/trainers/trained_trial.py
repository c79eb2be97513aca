"""A trial that one rank has trained, as the study's database would know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.protocol.exports import ExportRequest, TrialToExport
from storage.protocol.records import Outcome
from storage.protocol.trial_dir import TrialDir
from tests.trainers.tiny_trial import Run, open_attempt, switch_at, tiny_spec


def train_trial(folder: Path, number: int = 0, **changes: Any) -> TrialToExport:
    """Two epochs on one rank. `changes` are fields of the specification."""
    defaults = {"epochs": 2, "world_size": 1, "batch_policy": switch_at(1), "cache_dir": str(folder.parent / "cache")}
    spec = tiny_spec(trial_number=number, **{**defaults, **changes})
    end = Run(open_attempt(folder, spec)).end()
    assert end.result is not None, end
    assert end.result.outcome is Outcome.COMPLETED
    last = end.result.epochs[-1]
    return TrialToExport(
        str(folder), number, TrialDir(folder).spec_sha256(), last.f1_micro, last.f1_micro, last.f1_macro
    )


def request_for(out_dir: Path, *trials: TrialToExport) -> ExportRequest:
    return ExportRequest("tiny", "", "f1_micro", len(trials), tuple(trials), str(out_dir))
