"""The report's first three sentences, computed from the data."""

from __future__ import annotations

from collections.abc import Sequence

from study.reporting import statistics
from study.reporting.compare_arms import Comparison
from study.reporting.load import Arm
from study.reporting.statistics import Correlation, Estimate
from study.reporting.wording import (
    batches,
    duration,
    epoch_rule,
    label,
    listed,
    number,
    plural,
    seeds,
    with_interval,
)


def verdict(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> tuple[str, str, str]:
    """What was reached, how the arms differ (or the configurations, of one arm), and what it took."""
    if not any(arm.completed for arm in arms):
        return _nothing_yet(arms)
    if not comparisons:
        return _reached(arms), _spread(arms[0]), _cost(arms[0])
    return _reached(arms), " ".join(map(_difference, comparisons)), " ".join(map(_speed, comparisons))


def _nothing_yet(arms: Sequence[Arm]) -> tuple[str, str, str]:
    trials = sum(len(arm.trials) for arm in arms)
    failed = sum(trial.state == "fail" for arm in arms for trial in arm.trials)
    return (
        f"No trial has completed yet, so there is no score to report: of {plural(trials, 'trial')}, "
        f"{sum(len(arm.unfinished) for arm in arms)} are unfinished and {failed} failed.",
        "Nothing can be compared.",
        f"So far it took {number(sum(arm.node_hours for arm in arms), 3)} node-hours.",
    )


def _reached(arms: Sequence[Arm]) -> str:
    parts = []
    for arm in arms:
        best = arm.best
        if best is None:
            parts.append(f"none in {arm.name}, where nothing has completed")
            continue
        estimate = statistics.mean_over_seeds(best.scores(arm.objective))
        also = [
            f"{label(name)} {number(mean)}"
            for name in ("f1_micro", "f1_macro")
            if name != arm.objective and (mean := best.mean(name)) is not None
        ]
        of = plural(sum(bool(c.completed) for c in arm.configurations), "completed configuration")
        shown = f"{label(arm.objective)} {with_interval(estimate)}" + (f", {listed(also)}" if also else "")
        parts.append(f"{shown} in {arm.name} (of {of})")
    return (
        f"On the validation split, {epoch_rule(arms)} and with {seeds(arms)}, the best configuration reaches "
        f"{listed(parts)}; as the best of several it is chosen by this very score, so a test split would give less."
    )


def _difference(comparison: Comparison) -> str:
    baseline, other, score = comparison.baseline, comparison.other, comparison.baseline.objective
    estimate = comparison.mean_difference(score)
    if comparison.obstacle or estimate is None:
        why = comparison.obstacle or "no pairs"
        return f"{other.name} and {baseline.name} are shown side by side and not compared: {why}."
    differences = comparison.differences(score)
    said = (
        f"Over the {plural(len(differences), 'configuration')} that completed in both, {other.name} "
        f"({batches(other.batch_sizes)}) differs from {baseline.name} ({batches(baseline.batch_sizes)}) by "
        f"{with_interval(estimate, signed=True)} in {label(score)}"
    )
    return f"{said}: {_conclusion(estimate, differences)}{_ranking(comparison, score)}."


def _conclusion(estimate: Estimate, differences: Sequence[float]) -> str:
    if not estimate.has_interval:
        return "too few for an interval, so nothing follows"
    if not estimate.contains(0.0):
        if len(differences) < statistics.FEW:
            return f"the interval excludes 0, but that of {len(differences)} configurations is too narrow to rely on"
        return f"the interval excludes 0, so it is {'better' if estimate.value > 0 else 'worse'}"
    said = "the interval contains 0, so the comparison is inconclusive"
    detectable = statistics.detectable_difference(differences)
    return said if detectable is None else f"{said} (so many pairs show a difference of {number(detectable)} or more)"


def _ranking(comparison: Comparison, score: str) -> str:
    correlation = comparison.correlation(score, Correlation.SPEARMAN)
    if correlation is None:
        return ""
    same = comparison.agreement(score, 1)
    winner = "" if same is None else f", with {'the same' if same else 'another'} winner"
    return f"; the rankings of the configurations correlate with {with_interval(correlation, 2)}{winner}"


def _speed(comparison: Comparison) -> str:
    baseline, other, speed_up = comparison.baseline, comparison.other, comparison.speed_up
    if speed_up is None:
        return f"How much faster {other.name} is than {baseline.name} cannot be said."
    inconclusive = speed_up.has_interval and speed_up.contains(1.0)
    note = ", which is no clear difference" if inconclusive else ""
    cost = f"{number(other.node_hours, 3)} node-hours instead of {number(baseline.node_hours, 3)}"
    return (
        f"A trial of {other.name} is {with_interval(speed_up, 2)} times as fast as one of {baseline.name}, by the mean "
        f"duration of the shared configurations{note}; all attempts together, lost ones included, took {cost}."
    )


def _spread(arm: Arm) -> str:
    means = sorted((mean for c in arm.configurations if (mean := c.mean(arm.objective)) is not None), reverse=True)
    if len(means) < 2:
        return "With one completed configuration there is nothing to compare it with."
    said = (
        f"The {len(means)} completed configurations lie between {number(means[-1])} and {number(means[0])} in "
        f"{label(arm.objective)}, the second best {number(means[0] - means[1])} below the best"
    )
    return f"{said}: {_lead(arm)}."


def _lead(arm: Arm) -> str:
    scored = [c.scores(arm.objective) for c in arm.configurations if c.scores(arm.objective)]
    first, second = (
        statistics.mean_over_seeds(scores)
        for scores in sorted(scored, key=lambda scores: -sum(scores) / len(scores))[:2]
    )
    if not (first.has_interval and second.has_interval):
        return "whether a seed could turn that around, one seed per configuration cannot say"
    if first.overlaps(second):
        return "their intervals over the seeds overlap, so which is better is open"
    return "their intervals over the seeds do not overlap"


def _cost(arm: Arm) -> str:
    walls = [trial.record.wall_s for trial in arm.completed if trial.record is not None]
    lost = f", of which {number(arm.lost_node_hours, 3)} in attempts that failed" if arm.lost_node_hours else ""
    return (
        f"A completed trial took {duration(sum(walls) / len(walls))} on average, and all attempts together "
        f"{number(arm.node_hours, 3)} node-hours{lost}."
    )
