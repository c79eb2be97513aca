"""Ends a search that finds nothing better any more. Pure.

Optuna's terminator, of which this is one rule, goes with its version 6 and is therefore not used.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from study.budget import BudgetSettings
from study.finished_trials import completed_trials
from study.objectives import keeps_to_constraints


def stagnation(trials: Sequence[FrozenTrial], settings: BudgetSettings) -> str:
    """Why no further trial is worth its cost, in words; empty if one is, or nobody has asked.

    Counted are completed trials in the order in which they ended, whatever their numbers. One is better only if its
    first objective exceeds the best one so far by more than `noise`, within the study's constraint; a best one that
    chance has raised by less is not moved.
    """
    best, since = float("-inf"), 0
    for trial in sorted(completed_trials(trials), key=lambda trial: (trial.datetime_complete, trial.number)):
        since += 1
        if keeps_to_constraints(trial) and trial.values[0] > best + settings.noise:
            best, since = trial.values[0], 0
    if settings.stagnant_trials is None or since < settings.stagnant_trials:
        return ""
    by = f" by more than {settings.noise:g}" if settings.noise else ""
    return f"the last {since} completed trials have not raised the best score, {best:.4f}{by}"
