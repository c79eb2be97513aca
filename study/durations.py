"""How long the parts of a trial take, learned from attempts that have ended."""

from __future__ import annotations

from storage.database.schema import TrialRecord
from storage.protocol.attempts import AttemptEnd
from storage.protocol.records import Outcome


class Durations:
    """The longest epoch and the longest start that this study has seen.

    A guess from the past, so it errs on the long side: an allocation that is given back a little early costs less than
    one in which the ranks start and find no time to train.
    """

    def __init__(self) -> None:
        self._start_s = 0.0
        self._epoch_s = 0.0

    def learn(self, end: AttemptEnd) -> None:
        """Take an attempt's end into account. One without an epoch says how long a start takes at the least."""
        if not end.epochs:
            if end.result is not None and end.result.outcome is Outcome.PAUSED:
                self._start_s = max(self._start_s, end.wall_s)
        else:
            self._epoch_s = max(self._epoch_s, *(metrics.wall_s for metrics in end.epochs))
            self._start_s = max(self._start_s, end.wall_s - sum(metrics.wall_s for metrics in end.epochs))

    def learn_record(self, record: TrialRecord) -> None:
        """As `learn`, from what is stored of a trial of an earlier driver."""
        walls = [wall_s for wall_s in record.curves.get("wall_s", []) if wall_s is not None]
        if walls:
            self._epoch_s = max(self._epoch_s, *walls)
            self._start_s = max(self._start_s, (record.wall_s - sum(walls)) / max(1, record.attempt_count))

    def needed_s(self, epochs: int, has_started: bool = False) -> float:
        """For so many epochs, with a start before them; 0 as long as nothing is known."""
        return epochs * self._epoch_s + (0.0 if has_started else self._start_s)

    def needed_walltime_s(self, grace_s: float, walltime_s: float) -> float:
        """What must remain of an allocation for a trial to start in it: a start, one epoch and a checkpoint.

        Args:
            walltime_s: Of a new allocation. Nine tenths of it are always enough: where an epoch takes longer than a
                job, its parts are trained in several, because ranks save inside an epoch, too.
        """
        return min(self._start_s + self._epoch_s + 2 * grace_s, 0.9 * walltime_s)
