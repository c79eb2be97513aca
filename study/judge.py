"""The pruner's verdicts on a study's trials: each epoch is judged once, stored before anybody acts on it.

One process judges, so that all ranks of a trial do the same, and what it goes by is in the database: a driver that
comes after a SIGKILL decides what the one before it would have decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.database.schema import VerdictRow
from storage.protocol.records import EpochMetrics
from study.halving import RungRecord, Verdict, goes_on, is_promotable, last_resort, next_promotion
from study.ledger import Ledger
from study.pruners import AnyPruner, AshaPruner, NoPruner, RungPruner


class Judge:
    """Judges the trials of one study.

    Args:
        pruner: Resolved.
        seed: The study's.
        objective: Of SCORES.
    """

    def __init__(self, pruner: AnyPruner, seed: int, objective: str, ledger: Ledger) -> None:
        self._pruner, self._seed, self._objective, self._ledger = pruner, seed, objective, ledger
        self._stored: dict[int, list[VerdictRow]] | None = None

    @property
    def holds_trials(self) -> bool:
        """Whether trials wait at rungs, to be promoted from there."""
        return isinstance(self._pruner, AshaPruner) and self._pruner.promotes

    def judge(self, number: int, epochs: Sequence[EpochMetrics]) -> Verdict:
        """What a trial is to do, after the verdicts on those of its epochs that had none.

        Args:
            epochs: All that it has trained, in order.
        """
        if isinstance(self._pruner, NoPruner):
            return Verdict.GO_ON
        for index, metrics in enumerate(epochs):
            if self.standing(number) is not Verdict.GO_ON:
                break
            if metrics.epoch > self._judged_until(number) and not self._is_in_grace(epochs[: index + 1]):
                self._judge_last(number, epochs[: index + 1])
        return self.standing(number)

    def standing(self, number: int) -> Verdict:
        """The last verdict on a trial, if nothing has come after it."""
        rows = self._rows.get(number)
        return Verdict(rows[-1].verdict) if rows and rows[-1].promoted is None else Verdict.GO_ON

    def decided_after(self, number: int) -> int | None:
        """The epoch of the standing verdict; None where a trial is to go on.

        What ranks go on to train until they hear of it depends on how fast they are, so it is no part of the trial's
        result.
        """
        return None if self.standing(number) is Verdict.GO_ON else self._rows[number][-1].epoch

    def reason(self, number: int) -> str:
        """Of the standing verdict, in words."""
        row = self._rows[number][-1]
        place = "" if row.rung is None else f"rung {row.rung}, "
        return f"{place}{self._objective} {row.value:.4f} after epoch {row.epoch + 1}"

    def epochs_to_a_result(self, done: int, epochs: int) -> int:
        """How many more epochs a trial needs until it is over, or held at its next rung.

        Args:
            epochs: Of a trial that is never stopped.
        """
        if not self.holds_trials:
            return epochs - done
        ahead = [rung for rung in self._rung_pruner.rungs_of(0) if rung > done]
        return (ahead[0] if ahead else epochs) - done

    def next_promotion(self, held: Sequence[int]) -> int | None:
        """The one of the trials that wait that goes on next; None if none is good enough yet."""
        if not held:
            return None
        record = next_promotion(self._records(), held, self._rung_pruner.factor)
        return None if record is None else record.trial

    def last_resort(self, held: Sequence[int]) -> int | None:
        """The one of the trials that wait that goes on where otherwise none would be trained to its last epoch."""
        record = last_resort(self._records(), held)
        return None if record is None else record.trial

    def promote(self, number: int) -> None:
        """Have a held trial go on."""
        *before, last = self._rows[number]
        promoted = VerdictRow(**{**vars(last), "promoted": self._next_order()})
        self._store(number, [*before, promoted])

    def _judge_last(self, number: int, epochs: Sequence[EpochMetrics]) -> None:
        metrics = epochs[-1]
        value = metrics.score(self._objective)
        if isinstance(self._pruner, RungPruner):
            bracket = self._pruner.bracket_of(self._seed, number)
            rung = self._rung_due(number, bracket, metrics.epoch)
            if rung is not None:
                verdict = self._verdict_at_rung(RungRecord(number, bracket, rung, value))
                row = VerdictRow(metrics.epoch, value, verdict, bracket, rung, self._next_order())
                self._store(number, [*self._rows.get(number, []), row])
        elif not isinstance(self._pruner, NoPruner) and self._pruner.is_due(metrics.epoch):
            is_stopped = self._ledger.would_prune(self._pruner.optuna_pruner(), epochs)
            self._store(number, [VerdictRow(metrics.epoch, value, Verdict.STOP if is_stopped else Verdict.GO_ON)])

    def _rung_due(self, number: int, bracket: int, epoch: int) -> int | None:
        """The highest rung that the trial has come to and not been judged at."""
        rungs = self._rung_pruner.rungs_of(bracket)
        reached = sum(epoch + 1 >= epochs for epochs in rungs) - 1
        judged = max((row.rung for row in self._rows.get(number, []) if row.rung is not None), default=-1)
        return reached if reached > judged else None

    def _verdict_at_rung(self, record: RungRecord) -> Verdict:
        records = [*self._records(), record]
        if self.holds_trials:
            return Verdict.GO_ON if is_promotable(records, record, self._rung_pruner.factor) else Verdict.HOLD
        return Verdict.GO_ON if goes_on(records, record, self._rung_pruner.factor) else Verdict.STOP

    def _is_in_grace(self, epochs: Sequence[EpochMetrics]) -> bool:
        """Whether the batch size has just changed."""
        sizes = [metrics.global_batch_size for metrics in epochs]
        same = next((n for n, size in enumerate(reversed(sizes)) if size != sizes[-1]), None)
        return same is not None and not isinstance(self._pruner, NoPruner) and same <= self._pruner.grace_epochs

    def _judged_until(self, number: int) -> int:
        return max((row.epoch for row in self._rows.get(number, [])), default=-1)

    def _records(self) -> list[RungRecord]:
        rows = [
            (row.order, RungRecord(number, row.bracket, row.rung, row.value))
            for number, of_trial in self._rows.items()
            for row in of_trial
            if row.rung is not None
        ]
        return [record for _, record in sorted(rows, key=lambda ordered: ordered[0])]

    def _next_order(self) -> int:
        orders = (max(row.order, row.promoted or 0) for rows in self._rows.values() for row in rows)
        return max(orders, default=0) + 1

    @property
    def _rung_pruner(self) -> RungPruner:
        if not isinstance(self._pruner, RungPruner):
            raise TypeError(f"pruner {self._pruner.name!r} has no rungs")
        return self._pruner

    @property
    def _rows(self) -> dict[int, list[VerdictRow]]:
        if self._stored is None:
            self._stored = self._ledger.verdicts()
        return self._stored

    def _store(self, number: int, rows: list[VerdictRow]) -> None:
        self._ledger.record_verdicts(number, rows)
        self._rows[number] = rows
