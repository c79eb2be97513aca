"""Studies side by side on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from study.display import format_parameters
from study.energy import describe_energy
from study.reporting import statistics
from study.reporting.compare_arms import Comparison
from study.reporting.load import Arm, Configuration
from study.reporting.statistics import Estimate
from study.reporting.summary import paired
from study.reporting.tables import Cell, Column, ReportTable
from study.reporting.tables_of_energy import measured
from study.reporting.wording import duration, epoch_rule, label_of, number, seeds, with_interval


def by_study(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> ReportTable:
    """One column per study."""
    speed_ups = {comparison.other.name: comparison.speed_up for comparison in comparisons}
    columns = [_side(arm, speed_ups.get(arm.name)) for arm in arms]
    if any(measured(arm) for arm in arms):
        for arm, column in zip(arms, columns, strict=True):
            column["energy"] = describe_energy(arm.records)
    return ReportTable(
        "studies",
        "studies",
        (Column("", is_number=False), *(Column(arm.name, is_number=False) for arm in arms)),
        tuple((heading, *(column[heading] for column in columns)) for heading in columns[0]),
        f"Scores: validation split, {epoch_rule(arms)}, {seeds(arms)}. In brackets: 95 % intervals.",
    )


def by_configuration(arms: Sequence[Arm]) -> ReportTable:
    """One row per configuration: its F1 scores in each study, or what became of it there."""
    groups = {configuration.key: configuration for arm in arms for configuration in arm.configurations}
    by_key = [{configuration.key: configuration for configuration in arm.configurations} for arm in arms]
    rows: list[tuple[Cell, ...]] = []
    for key, configuration in groups.items():
        own = [group.get(key) for group in by_key]
        first = next(each for each in own if each is not None)
        cells = [_scores_in_words(each) for each in own]
        rows.append((label_of(first).partition(" ")[2], *cells, format_parameters(dict(configuration.parameters))))
    return ReportTable(
        "configurations",
        "F1 micro (macro) by configuration",
        (
            Column("trial", is_number=False),
            *(Column(arm.name, is_number=False) for arm in arms),
            Column("configuration", is_number=False),
        ),
        tuple(rows),
        f"Validation split, {epoch_rule(arms)}, {seeds(arms)}: with several, their mean ± standard deviation.",
    )


def differences(comparison: Comparison) -> ReportTable:
    """The paired differences, with a column per score so that it fits a terminal."""
    scores = dict.fromkeys([comparison.baseline.objective, "f1_micro", "f1_macro"])
    table = paired(comparison, list(scores))
    headings = [column.heading for column in table.columns]
    rows = zip(headings, *table.texts(), strict=True)
    _, *body = rows
    return ReportTable(
        table.key,
        table.title,
        (Column("", is_number=False), *(Column(str(row[0]), is_number=False) for row in table.rows)),
        tuple(body),
        table.note,
    )


def _side(arm: Arm, speed_up: Estimate | None) -> dict[str, str]:
    best, walls = arm.best, [trial.record.wall_s for trial in arm.completed if trial.record is not None]
    phases = {
        size: [
            record.epoch_s_by_batch_size[str(size)]
            for record in arm.records
            if str(size) in record.epoch_s_by_batch_size
        ]
        for size in arm.batch_sizes
    }
    return {
        "best": label_of(best) if best else "none completed",
        "F1 micro": _estimated(best, "f1_micro"),
        "F1 macro": _estimated(best, "f1_macro"),
        "configuration": format_parameters(dict(best.parameters)).replace(" ", "\n") if best else "",
        "mean trial": _with_spread(walls, 1) + " s" if walls else "",
        "seconds per epoch": "\n".join(f"{_with_spread(s, 2)} at batch {size}" for size, s in phases.items() if s),
        "total time": "" if arm.elapsed_s is None else duration(arm.elapsed_s),
        "node-hours": f"{arm.node_hours:.3g}",
        "speed-up of a trial": "" if speed_up is None else with_interval(speed_up, 2),
    }


def _estimated(configuration: Configuration | None, score: str) -> str:
    values = configuration.scores(score) if configuration else []
    return with_interval(statistics.mean_over_seeds(values)) if values else ""


def _scores_in_words(configuration: Configuration | None) -> str:
    if configuration is None:
        return "-"
    micro, macro = configuration.scores("f1_micro"), configuration.scores("f1_macro")
    if micro and macro:
        return f"{_with_spread(micro, 4)} ({_with_spread(macro, 4)})"
    return ", ".join(dict.fromkeys(trial.outcome for trial in configuration.trials))


def _with_spread(values: Sequence[float], digits: int) -> str:
    mean = number(math.fsum(values) / len(values), digits)
    return mean if len(values) == 1 else f"{mean} ± {number(stdev(values), digits)}"
