"""When a search is said to find nothing better any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from optuna.trial import FrozenTrial

from study.budget import BudgetSettings
from study.stagnation import stagnation
from tests.study.reporting.made_studies import completed, diverged, failed, running

START = datetime(2026, 1, 1, tzinfo=UTC)


def ended(scores: list[float]) -> list[FrozenTrial]:
    """Trials in the order in which they ended, an hour apart, numbered the other way round."""
    trials = [completed(len(scores) - 1 - index, score) for index, score in enumerate(scores)]
    for index, trial in enumerate(trials):
        trial.number, trial.datetime_complete = len(scores) - 1 - index, START + timedelta(hours=index)
    return trials[::-1]


@pytest.mark.parametrize(
    ("scores", "noise", "is_over"),
    [
        ([], 0.0, False),
        ([0.5, 0.4], 0.0, False),
        ([0.5, 0.4, 0.5], 0.0, True),
        ([0.5, 0.4, 0.6], 0.0, False),
        ([0.5, 0.4, 0.6, 0.6, 0.3], 0.0, True),
        # Better, but by no more than another seed might be.
        ([0.5, 0.505, 0.509], 0.01, True),
        ([0.5, 0.505, 0.511], 0.01, False),
    ],
)
def test_it_counts_completed_trials_since_the_last_that_was_better(scores, noise, is_over):
    said = stagnation(ended(scores), BudgetSettings(stagnant_trials=2, noise=noise))

    assert bool(said) is is_over


def test_a_trial_that_breaks_the_constraint_is_not_better():
    trials = ended([0.5, 0.6, 0.7])
    for trial in trials:
        trial.system_attrs["constraints:node_hours <= 1"] = trial.values[0] - 0.55

    assert "best score, 0.5000" in stagnation(trials, BudgetSettings(stagnant_trials=2))


def test_only_trials_that_trained_to_their_end_count():
    trials = [*ended([0.5]), diverged(1), failed(2), running(3, [0.1])]

    assert stagnation(trials, BudgetSettings(stagnant_trials=1)) == ""


def test_nobody_has_to_ask_for_it():
    assert stagnation(ended([0.5, 0.4, 0.3, 0.2]), BudgetSettings()) == ""
