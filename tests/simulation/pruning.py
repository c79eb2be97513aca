"""What must hold of a pruner's verdicts, whatever has happened."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from storage.database import schema
from storage.database.schema import VerdictRow
from study.halving import RungRecord, Verdict, goes_on, is_promotable, next_promotion
from study.plan import StudyPlan
from study.pruners import AshaPruner
from tests.simulation.database import Database
from tests.simulation.runner import score
from tests.simulation.world import InvariantError

# What a driver sent before it died may be on its way for so long.
_HEARD_WITHIN_S = 60.0


def require_no_standing_verdict(database: Database, number: int, now_s: float) -> None:
    """A trial that is stopped or held gets no attempt."""
    for study in database.storage.get_all_studies():
        for trial in database.storage.get_all_trials(study._study_id, deepcopy=False):
            rows = schema.read_verdicts(trial.user_attrs)
            since_s = now_s - database.verdict_s.get(trial._trial_id, now_s)
            if trial.number == number and rows and since_s > _HEARD_WITHIN_S and _stands(rows[-1]):
                raise InvariantError(f"trial {number} is given an attempt, {since_s:.0f} s after: {rows[-1].verdict}")


def require_right_decisions(plan: StudyPlan, trials: Sequence[FrozenTrial]) -> None:
    """Every verdict follows from those before it and from what was trained, and nothing that follows is missing."""
    pruner = plan.config.pruner.resolved(plan.config.training.epochs)
    rows = {trial.number: schema.read_verdicts(trial.user_attrs) for trial in trials}
    if not isinstance(pruner, AshaPruner):
        if any(rows.values()):
            raise InvariantError("there is no pruner, and a verdict")
        return
    made = sorted(((row, number) for number, of_trial in rows.items() for row in of_trial), key=lambda r: r[0].order)
    records: list[RungRecord] = []
    for row, number in made:
        _require_right_value(plan, trials[number], row)
        record = RungRecord(number, row.bracket, row.rung or 0, row.value)
        if any((known.trial, known.rung) == (number, record.rung) for known in records):
            raise InvariantError(f"trial {number} is judged twice at rung {row.rung}")
        records.append(record)
        may_go_on = (is_promotable if pruner.promotes else goes_on)(records, record, pruner.factor)
        otherwise = Verdict.HOLD if pruner.promotes else Verdict.STOP
        if row.verdict != (Verdict.GO_ON if may_go_on else otherwise):
            raise InvariantError(f"trial {number} is told {row.verdict} at rung {row.rung}, by {records}")
    _require_nothing_left(trials, rows, records, pruner)


def _require_right_value(plan: StudyPlan, trial: FrozenTrial, row: VerdictRow) -> None:
    if row.value != score(plan.spec(trial.number, trial.params, ""), row.epoch):
        raise InvariantError(f"trial {trial.number} is judged by {row.value} after epoch {row.epoch}, which is not its")


def _require_nothing_left(
    trials: Sequence[FrozenTrial],
    rows: dict[int, list[VerdictRow]],
    records: Sequence[RungRecord],
    pruner: AshaPruner,
) -> None:
    for trial in trials:
        is_stopped = bool(rows[trial.number]) and _stands(rows[trial.number][-1])
        if trial.state is TrialState.PRUNED and not is_stopped:
            raise InvariantError(f"trial {trial.number} is pruned, and nobody has said so: {rows[trial.number]}")
    waiting = [
        trial.number
        for trial in trials
        if trial.state is TrialState.PRUNED and rows[trial.number][-1].verdict == "hold"
    ]
    left = next_promotion(records, waiting, pruner.factor)
    if left is not None:
        raise InvariantError(f"trial {left.trial} is among the best of rung {left.rung} and was never promoted")
    states = [trial.state for trial in trials]
    if TrialState.PRUNED in states and TrialState.COMPLETE not in states:
        raise InvariantError("no trial was trained to its last epoch")


def _stands(row: VerdictRow) -> bool:
    return row.verdict != Verdict.GO_ON and row.promoted is None
