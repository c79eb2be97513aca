"""What a study's pruner did, in a line, from the database alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from storage.database import schema
from study.halving import Verdict


def is_held(trial: FrozenTrial) -> bool:
    """Whether the trial waits at a rung, for its promotion or the end of its study."""
    rows = schema.read_verdicts(trial.user_attrs)
    is_waiting = bool(rows) and rows[-1].verdict == Verdict.HOLD and rows[-1].promoted is None
    return is_waiting and not trial.state.is_finished()


def describe_pruning(trials: Sequence[FrozenTrial]) -> str:
    """How many trials were stopped, held and promoted, and where; empty for a study without a pruner."""
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    rows = {trial.number: schema.read_verdicts(trial.user_attrs) for trial in trials}
    if not any(rows.values()):
        return ""
    stopped = Counter(_place(rows[trial.number]) for trial in pruned if rows[trial.number])
    promoted = Counter(row.epoch + 1 for of_trial in rows.values() for row in of_trial if row.promoted is not None)
    parts = [f"{sum(stopped.values())} of {len(trials)} pruned{_by_epoch(stopped)}"]
    if promoted:
        parts.append(f"{sum(promoted.values())} held and promoted{_by_epoch(promoted)}")
    if held := sum(map(is_held, trials)):
        parts.append(f"{held} held")
    return "; ".join(parts)


def describe_nodes(trials: Sequence[FrozenTrial]) -> str:
    """How many trials came to how many nodes; empty where all had the same."""
    rows = [schema.read_attempts(trial.user_attrs) for trial in trials]
    most = Counter(max(row.nodes or 0 for row in of_trial) for of_trial in rows if of_trial)
    if len(most) < 2:
        return ""
    return "at most: " + ", ".join(f"{nodes} for {count} trials" for nodes, count in sorted(most.items()))


def _place(rows: Sequence[schema.VerdictRow]) -> int:
    return rows[-1].epoch + 1


def _by_epoch(counts: Counter[int]) -> str:
    if not counts:
        return ""
    return ": " + ", ".join(f"{count} after epoch {epoch}" for epoch, count in sorted(counts.items()))
