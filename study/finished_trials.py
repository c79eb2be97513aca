"""The trials of a study that are over, and what is stored of them."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from storage.database.schema import TrialRecord
from study.objectives import keeps_to_constraints


def record_of(trial: FrozenTrial) -> TrialRecord | None:
    """What is stored of a trial that is over; None of one that is not, or that runs again."""
    return TrialRecord.read(trial.user_attrs) if trial.state.is_finished() else None


def best_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial of the highest value that did not diverge and keeps to the study's constraint.

    None if there is none. With several objectives, the first one counts.
    """
    return max(eligible_trials(trials), key=lambda trial: trial.values[0], default=None)


def eligible_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those among which the best one is: completed, and within the study's constraint."""
    return [trial for trial in completed_trials(trials) if keeps_to_constraints(trial)]


def completed_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that trained to the end and did not diverge."""
    return [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETE and (record := record_of(trial)) is not None and record.is_completed
    ]
