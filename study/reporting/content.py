"""What a report says, as a value: sections of tables and figures. Setting it on a page is another matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from study.reporting import curves, figures, parameter_figures, summary, tables_of_energy, tables_of_trials
from study.reporting.chart import Figure
from study.reporting.compare_arms import Comparison, compare_arms
from study.reporting.importance import importances
from study.reporting.load import Arm
from study.reporting.tables import ReportTable
from study.reporting.verdict import verdict
from study.reporting.wording import label, listed, plural

Found = TypeVar("Found")


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    long_tables: tuple[ReportTable, ...] = ()
    """Folded away on a screen."""

    @property
    def is_empty(self) -> bool:
        return not (self.figures or self.tables or self.long_tables)


@dataclass(frozen=True)
class Report:
    title: str
    subtitle: str
    verdict: tuple[str, ...]
    notices: tuple[str, ...]
    """What a reader must know before comparing."""
    sections: tuple[Section, ...]
    configs: dict[str, object] = field(default_factory=dict)
    """The identity of each study, by name."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(figure for section in self.sections for figure in section.figures)

    @property
    def tables(self) -> tuple[ReportTable, ...]:
        return tuple(table for section in self.sections for table in (*section.tables, *section.long_tables))


def make_report(arms: Sequence[Arm], made_at: datetime) -> Report:
    """Everything that can be said of these studies; what cannot is left out, and the notices say why."""
    comparisons = compare_arms(arms)
    objective = arms[0].objective
    sections = [
        _summary(arms, comparisons),
        _training(arms, objective),
        _pairs(arms, comparisons),
        _hyperparameters(arms),
        _classes(arms),
        _throughput(arms),
        _faults(arms),
        Section("trials", "Trials", long_tables=(tables_of_trials.trials(arms),)),
        Section("provenance", "Provenance", tables=(tables_of_trials.provenance(arms),)),
    ]
    return Report(
        title=listed(arm.name for arm in arms),
        subtitle=f"{plural(len(arms), 'study').replace('studys', 'studies')}, {_data(arms)}, "
        f"read from the database on {made_at:%Y-%m-%d %H:%M} UTC",
        verdict=verdict(arms, comparisons),
        notices=tuple(_notices(arms, comparisons)),
        sections=tuple(section for section in sections if not section.is_empty),
        configs={arm.name: dict(arm.config) for arm in arms if arm.config},
    )


def _data(arms: Sequence[Arm]) -> str:
    datasets = dict.fromkeys(arm.dataset for arm in arms)
    return f"data set {listed(datasets)}"


def _notices(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> list[str]:
    said = []
    for arm in arms:
        if arm.unfinished:
            said.append(
                f"{arm.name}: {len(arm.unfinished)} of {plural(len(arm.trials), 'trial')} not finished, running or "
                "waiting for a driver. What follows is of the others."
            )
        elif not arm.trials:
            said.append(f"{arm.name}: it has no trials yet.")
        if arm.problem:
            said.append(f"{arm.name}: {arm.problem}.")
        if malformed := sum(bool(trial.problem) for trial in arm.trials):
            said.append(f"{arm.name}: the rows of {plural(malformed, 'trial')} are malformed; see the faults.")
    for comparison in comparisons:
        if comparison.obstacle:
            said.append(
                f"{comparison.other.name} and {comparison.baseline.name} stand side by side without paired statistics: "
                f"{comparison.obstacle}."
            )
        if comparison.unlike:
            said.append(comparison.unlike_in_words)
    return said


def _summary(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> Section:
    made = [
        summary.table_1(arms, comparisons),
        summary.best_scores(arms),
        summary.pareto_front(arms),
        summary.test_scores(arms),
    ]
    fronts = [figures.pareto_front(arm) for arm in arms]
    return Section("summary", "The paper's table 1, and ours", figures=_present(fronts), tables=_present(made))


def _training(arms: Sequence[Arm], objective: str) -> Section:
    scores = dict.fromkeys(["f1_micro", "f1_macro"])
    charts = [
        curves.time_per_epoch(arms),
        *(curves.score_per_epoch(arms, score, label(score)) for score in scores),
    ]
    return Section(
        "training", "Training, epoch by epoch", "As in the paper's figure 1. Epochs count from 1.", _present(charts)
    )


def _pairs(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> Section:
    paired = [comparison for comparison in comparisons if comparison.pairs]
    charts = []
    for comparison in paired:
        score = comparison.baseline.objective
        charts.append(figures.paired_differences(comparison, score, label(score)))
        charts.append(figures.ranks(comparison, score, label(score)))
    made = [summary.paired(comparison) for comparison in paired]
    rows = [summary.pairs(comparison) for comparison in paired]
    return Section(
        "pairs",
        "The arms, configuration by configuration",
        "A configuration is its parameters: what two arms share is compared pair by pair, each the mean of its seeds. "
        "Configurations that diverged or failed in one of the arms are left out.",
        _present(charts),
        _present(made),
        _present(rows),
    )


def _hyperparameters(arms: Sequence[Arm]) -> Section:
    score = arms[0].objective
    shares = importances(arms)
    charts = [
        figures.importance(shares, arms),
        *parameter_figures.slices(arms, score, label(score)),
        *(parameter_figures.parallel_coordinates(arm, arm.objective, label(arm.objective)) for arm in arms),
    ]
    return Section(
        "hyperparameters",
        "Hyperparameters",
        "" if shares else "Importance needs at least 10 completed configurations of an arm.",
        _present(charts),
        _present([summary.importance(shares)]),
    )


def _classes(arms: Sequence[Arm]) -> Section:
    scores = summary.f1_by_class(arms)
    charts: list[Figure | None] = [figures.class_scores(arms, scores)]
    for arm in arms:
        trial = summary.best_trial_with_classes(arm)
        if trial is None or trial.classes is None or len(trial.classes.names) > figures.MAX_CONFUSED:
            continue
        if trial.classes.confusion:
            charts.append(figures.confusion(arm, trial.classes.names, trial.classes.confusion))
    return Section("classes", "Classes", figures=_present(charts), long_tables=_present([summary.classes(arms)]))


def _throughput(arms: Sequence[Arm]) -> Section:
    return Section("throughput", "Throughput", tables=_present([tables_of_trials.throughput(arms)]))


def _faults(arms: Sequence[Arm]) -> Section:
    made = [
        tables_of_trials.cost(arms),
        tables_of_energy.energy(arms),
        tables_of_energy.energy_by_phase(arms),
        tables_of_trials.attempts(arms),
        tables_of_trials.faults(arms),
    ]
    return Section("faults", "Cost, faults and lost work", tables=_present(made))


def _present(found: Sequence[Found | None]) -> tuple[Found, ...]:
    return tuple(each for each in found if each is not None)
