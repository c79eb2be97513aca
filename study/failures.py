"""Trials that failed, held back for a while: when one after the other fails alike, it is hardly the trials' fault.

A failed trial is told as soon as another one has ended otherwise, or when there is nothing left to run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from study.transitions import Tell

if TYPE_CHECKING:
    from study.loop import ActiveTrial

MAX_ALIKE = 3

Failed = tuple["ActiveTrial", Tell]


class AlikeFailures:
    """The failures since a trial last ended otherwise, as long as they are alike."""

    def __init__(self) -> None:
        self._failed: list[Failed] = []

    def add(self, trial: ActiveTrial, tell: Tell) -> list[Failed]:
        """Take a trial that is over; gives those that can be told now, in order."""
        if tell.state is not TrialState.FAIL:
            return [*self.take(), (trial, tell)]
        earlier = [] if self._failed and _kind(tell) == _kind(self._failed[0][1]) else self.take()
        self._failed.append((trial, tell))
        return earlier

    def are_too_many(self) -> bool:
        return len(self._failed) >= MAX_ALIKE

    def numbers(self) -> list[int]:
        """Of the trials that are held back."""
        return [trial.number for trial, _ in self._failed]

    def take(self) -> list[Failed]:
        """All that are held back; none is any more."""
        failed, self._failed = self._failed, []
        return failed


def _kind(tell: Tell) -> tuple[str, str]:
    """What two failures have in common if they are alike: numbers and what is quoted may differ."""
    return tell.outcome, re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|\d+", "*", tell.reason)
