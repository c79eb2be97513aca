"""Tables of what a study found: scores, differences between arms, rankings, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from storage.protocol.records import SCORES, SplitScores
from study.display import format_parameters
from study.reporting import paper, statistics
from study.reporting.compare_arms import Comparison, choose_baseline
from study.reporting.load import Arm, Trial
from study.reporting.statistics import Correlation, Estimate
from study.reporting.tables import Cell, Column, ReportTable
from study.reporting.wording import batches, epoch_rule, label, label_of, seeds


def table_1(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> ReportTable:
    """The paper's table 1, with a row per study."""
    speed_ups = {comparison.other.name: comparison.speed_up for comparison in comparisons}
    if comparisons:
        speed_ups[choose_baseline(arms).name] = Estimate(1.0)
    rows: list[tuple[Cell, ...]] = [
        _paper_row("paper, constant", paper.CONSTANT),
        _paper_row("paper, switched", paper.SWITCHED),
        *(_own_row(arm, speed_ups.get(arm.name)) for arm in arms),
    ]
    return ReportTable(
        "table-1",
        "Runtime of the search, and scores of the best configuration",
        (
            Column("", is_number=False),
            Column("global batch size", is_number=False),
            Column("data set", is_number=False),
            Column("total runtime (h)", 3),
            Column("mean trial (min)", 2),
            Column("F1 micro"),
            Column("F1 macro"),
            Column("node-hours", 3),
            Column("speed-up", 2),
        ),
        tuple(rows),
        f"Paper: {paper.SOURCE}, BigEarthNet-19, best of 24 configurations, validation split, last of 100 epochs, one "
        f"seed; its node-hours are {paper.NODES} nodes times the total runtime. Ours: validation split, "
        f"{epoch_rule(arms)}, {seeds(arms)}; in brackets 95 % intervals, of scores over the seeds, of the speed-up "
        "over the configurations that both arms share. Total runtime: first trial's start to the last one's end, "
        "pauses of the driver included. Times are as measured, with whatever else the machines did.",
    )


def pareto_front(arms: Sequence[Arm]) -> ReportTable | None:
    """The trials of each study of several objectives that no other one of it is better than in every respect."""
    searching = [(arm, front) for arm in arms if (front := arm.front)]
    if not searching:
        return None
    names = list(dict.fromkeys(objective.name for arm, _ in searching for objective in arm.objectives))
    rows: list[tuple[Cell, ...]] = []
    for arm, front in searching:
        for trial in front:
            values = {each.name: value for each, value in zip(arm.objectives, trial.values, strict=True)}
            row = (arm.name, trial.number, *(values.get(name) for name in names))
            rows.append((*row, format_parameters(dict(trial.parameters))))
    return ReportTable(
        "pareto-front",
        "Pareto front",
        (
            Column("study", is_number=False),
            Column("trial", 0),
            *(Column(label(name)) for name in names),
            Column("configuration", is_number=False),
        ),
        tuple(rows),
        "Completed trials that no other one of their study matches in all objectives and beats in one. One seed each, "
        f"validation split, {epoch_rule(arms)}.",
    )


def best_scores(arms: Sequence[Arm]) -> ReportTable | None:
    """Every score of each arm's best configuration."""
    bests = [(arm, best) for arm in arms if (best := arm.best) is not None]
    names = [name for name in SCORES if any(best.scores(name) for _, best in bests)]
    if not bests:
        return None
    rows: list[tuple[Cell, ...]] = [
        ("trials", *(label_of(best) for _, best in bests)),
        ("configuration", *(format_parameters(dict(best.parameters)) for _, best in bests)),
        *(
            (label(name), *(statistics.mean_over_seeds(v) if (v := best.scores(name)) else None for _, best in bests))
            for name in names
        ),
    ]
    return ReportTable(
        "best-configurations",
        "The best configurations on the validation split",
        (Column("", is_number=False), *(Column(arm.name) for arm, _ in bests)),
        tuple(rows),
        f"{_upper(epoch_rule(arms))}; {seeds(arms)}. With several seeds: their mean, and Student's 95 % "
        "interval of it.",
    )


def test_scores(arms: Sequence[Arm]) -> ReportTable | None:
    """Scores on the test split, where studies have stored them."""
    tested = [
        (arm, configuration, tests)
        for arm in arms
        for configuration in arm.configurations
        if (tests := [trial.test for trial in configuration.completed if trial.test is not None])
    ]
    if not tested:
        return None
    names = [name for name in SCORES if any(name in test.scores for _, _, tests in tested for test in tests)]

    def score(tests: Sequence[SplitScores], name: str) -> Estimate | None:
        values = [test.scores[name] for test in tests if name in test.scores]
        return statistics.mean_over_seeds(values) if values else None

    return ReportTable(
        "test-split",
        "Scores on the test split",
        (
            Column("study", is_number=False),
            Column("configuration", is_number=False),
            Column("seeds", 0),
            Column("samples", 0),
            *(Column(label(name)) for name in names),
        ),
        tuple(
            (arm.name, label_of(configuration), len(tests), tests[0].samples, *(score(tests, name) for name in names))
            for arm, configuration, tests in tested
        ),
        f"{_upper(epoch_rule(arms))}. The test split had no part in training or choice. Mean over the seeds; in "
        "brackets Student's 95 % interval of it.",
    )


def paired(comparison: Comparison, scores: Sequence[str] | None = None) -> ReportTable:
    """Differences of scores and the agreement of the rankings, over the shared configurations.

    Args:
        scores: Which; None: all that were measured, the objective first.
    """
    rows: list[tuple[Cell, ...]] = []
    for score in scores or _scores_of(comparison):
        differences = comparison.differences(score)
        rows.append(
            (
                label(score),
                len(differences),
                comparison.mean_difference(score),
                statistics.detectable_difference(differences),
                comparison.correlation(score, Correlation.SPEARMAN),
                comparison.correlation(score, Correlation.KENDALL),
                _share(comparison, score, 1),
                _share(comparison, score, 3),
            )
        )
    return ReportTable(
        f"paired-{comparison.other.name}",
        f"{comparison.other.name} minus {comparison.baseline.name}, by configuration",
        (
            Column("score", is_number=False),
            Column("configurations", 0),
            Column("mean difference", is_signed=True),
            Column("detectable"),
            Column("Spearman", 2),
            Column("Kendall", 2),
            Column("same best", is_number=False),
            Column("same top 3", is_number=False),
        ),
        tuple(rows),
        "In brackets 95 % bootstrap intervals over the configurations (BCa for the difference, percentiles for the "
        "correlations); of fewer than about ten they are too narrow. Detectable: the smallest true difference that so "
        f"many pairs would show in 80 % of the cases. {_left_out(comparison)}",
    )


def pairs(comparison: Comparison) -> ReportTable:
    """One row per shared configuration."""
    score, baseline, other = comparison.baseline.objective, comparison.baseline, comparison.other
    rows: list[tuple[Cell, ...]] = []
    for pair in comparison.pairs:
        values = pair.values(score)
        if values is not None:
            before, after = values
            walls = (pair.baseline.mean_wall_s, pair.other.mean_wall_s)
            rows.append(
                (
                    label_of(pair.baseline),
                    format_parameters(dict(pair.baseline.parameters)),
                    before,
                    after,
                    after - before,
                    *walls,
                )
            )
    return ReportTable(
        f"pairs-{other.name}",
        f"Shared configurations of {baseline.name} and {other.name}",
        (
            Column(f"in {baseline.name}", is_number=False),
            Column("configuration", is_number=False),
            Column(f"{label(score)}, {baseline.name}"),
            Column(f"{label(score)}, {other.name}"),
            Column("difference", is_signed=True),
            Column(f"seconds, {baseline.name}", 1),
            Column(f"seconds, {other.name}", 1),
        ),
        tuple(rows),
        f"Means over the seeds. Validation split, {epoch_rule((baseline, other))}, {seeds((baseline, other))}.",
    )


def importance(shares: dict[str, dict[str, float]]) -> ReportTable | None:
    if not shares:
        return None
    parameters = list(dict.fromkeys(name for by_name in shares.values() for name in by_name))
    return ReportTable(
        "importance",
        "Importance of the hyperparameters",
        (Column("parameter", is_number=False), *(Column(name, 2) for name in shares)),
        tuple((name, *(by_name.get(name) for by_name in shares.values())) for name in parameters),
        "PED-ANOVA (Watanabe et al. 2023), over configurations.",
    )


def classes(arms: Sequence[Arm]) -> ReportTable | None:
    """Precision, recall, F1 and average precision of each class in the best trial of each arm."""
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        trial = best_trial_with_classes(arm)
        if trial is None or trial.classes is None:
            continue
        c = trial.classes
        rows.extend(
            (arm.name, trial.number, *row)
            for row in zip(c.names, c.samples, c.precision, c.recall, c.f1, c.average_precision, strict=True)
        )
    if not rows:
        return None
    return ReportTable(
        "classes",
        "Scores by class of the best trials",
        (
            Column("study", is_number=False),
            Column("trial", 0),
            Column("class", is_number=False),
            Column("samples", 0),
            *(Column(heading) for heading in ("precision", "recall", "F1", "average precision")),
        ),
        tuple(rows),
        f"Validation split, {epoch_rule(arms)}, one seed: the best trial of the best configuration.",
    )


def f1_by_class(arms: Sequence[Arm]) -> dict[str, dict[str, float]]:
    """The F1 of each class, mean over the seeds of each arm's best configuration."""
    found = {}
    for arm in arms:
        tables = [trial.classes for trial in (arm.best.completed if arm.best else ()) if trial.classes is not None]
        # A class may be missing on purpose nowhere: all trials of a study have the same.
        if tables and all(table.names == tables[0].names for table in tables):
            columns = zip(*(table.f1 for table in tables), strict=True)
            found[arm.name] = dict(
                zip(tables[0].names, (math.fsum(column) / len(tables) for column in columns), strict=True)
            )
    return found


def best_trial_with_classes(arm: Arm) -> Trial | None:
    """Of the best configuration, the trial with the highest value that has scores by class."""
    trials = [trial for trial in (arm.best.completed if arm.best else ()) if trial.classes is not None]
    return max(trials, key=lambda trial: trial.score(arm.objective) or 0.0, default=None)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _paper_row(name: str, arm: paper.PaperArm) -> tuple[Cell, ...]:
    speed_up = Estimate(paper.CONSTANT.trial_min / arm.trial_min)
    sizes = batches(arm.batch_sizes)
    scores = (f"{arm.f1_micro:.2f}", f"{arm.f1_macro:.2f}")
    return (
        name,
        sizes,
        "BigEarthNet-19",
        f"{arm.total_h:g}",
        f"{arm.trial_min:g}",
        *scores,
        f"{arm.node_hours:g}",
        speed_up,
    )


def _own_row(arm: Arm, speed_up: Estimate | None) -> tuple[Cell, ...]:
    walls = [trial.record.wall_s for trial in arm.completed if trial.record is not None]
    best = arm.best
    return (
        arm.name,
        batches(arm.batch_sizes),
        arm.dataset,
        None if arm.elapsed_s is None else arm.elapsed_s / 3600,
        math.fsum(walls) / len(walls) / 60 if walls else None,
        *(
            statistics.mean_over_seeds(values) if best and (values := best.scores(name)) else None
            for name in ("f1_micro", "f1_macro")
        ),
        arm.node_hours if arm.trials else None,
        speed_up,
    )


def _scores_of(comparison: Comparison) -> list[str]:
    names = dict.fromkeys([comparison.baseline.objective, *SCORES])
    return [name for name in names if comparison.differences(name)]


def _share(comparison: Comparison, score: str, count: int) -> str | None:
    agreeing = comparison.agreement(score, count)
    return None if agreeing is None else f"{agreeing} of {count}"


def _left_out(comparison: Comparison) -> str:
    if not comparison.unpaired:
        return ""
    return f"Left out: {comparison.unpaired} that both arms have, but that did not complete in both."
