"""The table with which a study closes, from the database alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from optuna.trial import FrozenTrial, TrialState
from rich.markup import escape
from rich.table import Table

from storage.database.schema import TrialRecord
from study.display import format_parameters
from study.energy import describe_energy
from study.finished_trials import best_trial, completed_trials, eligible_trials, record_of
from study.objectives import Objective, format_values, pareto_front
from study.pruning_summary import describe_nodes, describe_pruning, is_held

_SHOWN_OF_FRONT = 10


def closing_table(
    name: str,
    trials: Sequence[FrozenTrial],
    storage_url: str,
    spent: str = "",
    objectives: Sequence[Objective] = (),
) -> Table:
    """The study in a dozen lines: best configuration, scores, time, throughput, where it all is.

    Args:
        spent: What the study has cost, of what it may.
        objectives: Of the study; with several, their Pareto front is shown.
    """
    table = Table(title=f"study {name}", show_header=False, title_justify="left", min_width=60)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    best, completed, eligible = best_trial(trials), completed_trials(trials), eligible_trials(trials)
    table.add_row("trials", count_outcomes(trials))
    if pruning := describe_pruning(trials):
        table.add_row("pruner", pruning)
    if nodes := describe_nodes(trials):
        table.add_row("nodes", nodes)
    if spent:
        table.add_row("budget", spent)
    if breaking := len(completed) - len(eligible):
        table.add_row("constraint", f"broken by {breaking} of {len(completed)} completed trials")
    if len(objectives) > 1 and eligible:
        table.add_row("Pareto front", escape(_front_in_words(eligible, objectives)))
    if best is not None and (record := record_of(best)) is not None:
        table.add_row("best trial", escape(f"{best.number}: {format_parameters(best.params)}"))
        table.add_row("F1 micro / macro", f"{record.f1_micro:.4f} / {record.f1_macro:.4f}")
        table.add_row("which score", _describe_score(record))
        table.add_row("time", f"{record.wall_s:.1f} s for the best trial, {_mean_wall_s(trials):.1f} s on average")
        table.add_row(
            "node-hours", f"{sum(r.node_hours for r in _records(trials)):.3g} of attempts, lost ones included"
        )
        table.add_row("images/s", _by_phase(record.images_per_s_by_batch_size, "{:.0f}"))
        table.add_row("seconds per epoch", _by_phase(record.epoch_s_by_batch_size, "{:.2f}"))
        table.add_row(
            "data plane", f"{record.data_plane}, {record.communicator['world_size']} ranks on {', '.join(record.hosts)}"
        )
    if energy := describe_energy(_records(trials)):
        table.add_row("energy", escape(energy))
    if best is not None and (record := record_of(best)) is not None and record.energy_j_by_batch_size:
        phases = {size: joules / 1000 for size, joules in record.energy_j_by_batch_size.items()}
        table.add_row("kJ of the best trial", _by_phase(phases, "{:.4g}"))
    for trial in trials:
        if trial.state is TrialState.FAIL and (failed := record_of(trial)) is not None:
            table.add_row(f"trial {trial.number}", f"{failed.outcome}: {escape(failed.reason)}")
    if any(trial.state is TrialState.FAIL for trial in trials):
        table.add_row("failed trials", "run again by the same command with --retry-failed")
    table.add_row("database", escape(storage_url))
    table.add_row("dashboard", escape(f"{_python()} study/dashboard.py --storage {storage_url}"))
    return table


def _front_in_words(eligible: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> str:
    front = pareto_front(eligible, objectives)
    lines = [f"trial {trial.number}: {format_values(trial.values, objectives)}" for trial in front[:_SHOWN_OF_FRONT]]
    if len(front) > _SHOWN_OF_FRONT:
        lines.append(f"and {len(front) - _SHOWN_OF_FRONT} more: study/report.py shows all")
    return "\n".join(lines)


def _describe_score(record: TrialRecord) -> str:
    """Which split, which epoch and how many seeds it is of: without them it compares with nothing."""
    epochs = len(record.curves.get("f1_micro", ()))
    if not epochs:
        # Older versions stored no curves, and knew the last epoch only.
        return "validation split, last epoch, one seed"
    counted = epochs if record.counted_epoch is None else record.counted_epoch + 1
    return f"validation split, epoch {counted} of {epochs}, one seed"


def _python() -> str:
    """The Python that runs this, as a person would type it here."""
    here, python = Path.cwd(), Path(sys.executable)
    return str(python.relative_to(here)) if python.is_relative_to(here) else str(python)


def count_outcomes(trials: Sequence[FrozenTrial]) -> str:
    """How many trials ended in which way, in words."""
    # Without an outcome it is still "running" to the database, but no longer to this driver.
    records = [record_of(trial) for trial in trials]
    outcomes = [
        record.outcome if record is not None else "held" if is_held(trial) else "unfinished"
        for trial, record in zip(trials, records, strict=True)
    ]
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))


def _records(trials: Sequence[FrozenTrial]) -> list[TrialRecord]:
    return [record for trial in trials if (record := record_of(trial)) is not None]


def _mean_wall_s(trials: Sequence[FrozenTrial]) -> float:
    return fmean(record.wall_s for record in _records(trials))


def _by_phase(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{form.format(value)} at batch {size}" for size, value in values.items())
