"""Charts of the comparison of arms, of the parameters' importance and of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from study.reporting import statistics
from study.reporting.chart import COLOURS, INK, MUTED, Figure, arm_colour, arm_shape, data, finish
from study.reporting.compare_arms import Comparison
from study.reporting.load import Arm
from study.reporting.statistics import Correlation
from study.reporting.wording import label, label_of, with_interval

_MAX_LABELS = 50
MAX_CONFUSED = 60
"""Classes that a table of confusion can show."""


def paired_differences(comparison: Comparison, score: str, label: str) -> Figure | None:
    """Each shared configuration's difference, in order, and their mean with its interval."""
    import altair as alt

    differences, mean = comparison.differences(score), comparison.mean_difference(score)
    if mean is None:
        return None
    names = [label_of(pair.baseline) for pair in comparison.pairs if pair.values(score) is not None]
    ordered = sorted(zip(names, differences, strict=True), key=lambda pair: pair[1])
    rows = [{"configuration": name, "difference": difference} for name, difference in ordered]
    order = [name for name, _ in ordered]
    title = f"{label}: {comparison.other.name} − {comparison.baseline.name}"
    x = alt.X("difference:Q", title=title, axis=alt.Axis(format="+.3~f", tickCount=6), scale=alt.Scale(padding=10))
    # Of many, the labels would cover one another; the marks say which is which.
    axis = alt.Axis(labels=len(rows) <= _MAX_LABELS, ticks=len(rows) <= _MAX_LABELS)
    y = alt.Y("configuration:N", title=None, sort=order, axis=axis)
    layers: list[alt.Chart] = [
        alt.Chart(data([{"at": 0}])).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x=alt.X("at:Q", title=title)),
        alt.Chart(data(rows))
        .mark_point(filled=True, size=60, color=COLOURS[1])
        .encode(x=x, y=y, tooltip=[alt.Tooltip("configuration:N"), alt.Tooltip("difference:Q", format="+.4f")]),
    ]
    if mean.has_interval:
        box = [{"low": mean.low, "high": mean.high, "mean": mean.value}]
        layers.insert(
            0,
            alt.Chart(data(box))
            .mark_rect(color=COLOURS[1], opacity=0.16)
            .encode(x=alt.X("low:Q", title=title), x2="high:Q"),
        )
    layers.append(
        alt.Chart(data([{"mean": mean.value}]))
        .mark_rule(color=COLOURS[1], strokeWidth=2)
        .encode(x=alt.X("mean:Q", title=title))
    )
    return Figure(
        f"difference-{score.replace('_', '-')}-{comparison.other.name}",
        f"Difference in {label} by configuration",
        f"{comparison.other.name} minus {comparison.baseline.name}, each the mean of a configuration's seeds. Line and "
        "shade: mean and its 95 % interval.",
        finish(alt.layer(*layers), height=max(120, min(18, 900 // len(rows)) * len(rows))),
    )


def ranks(comparison: Comparison, score: str, label: str) -> Figure | None:
    """The rank of each shared configuration in one arm against that in the other."""
    import altair as alt
    from scipy.stats import rankdata

    first, second = comparison.values(score)
    if len(first) < statistics.MIN_RESAMPLED:
        return None
    pairs = [pair for pair in comparison.pairs if pair.values(score) is not None]
    ranked = zip(pairs, rankdata([-v for v in first]), rankdata([-v for v in second]), strict=True)
    rows = [
        {"configuration": label_of(pair.baseline), "baseline": float(x), "other": float(y)} for pair, x, y in ranked
    ]
    scale = alt.Scale(domain=[0.5, len(rows) + 0.5], nice=False, zero=False)
    axis = alt.Axis(tickMinStep=1, format="d")
    diagonal = [{"baseline": end, "other": end} for end in (0.5, len(rows) + 0.5)]
    x = alt.X("baseline:Q", title=f"rank in {comparison.baseline.name}", scale=scale, axis=axis)
    y = alt.Y("other:Q", title=f"rank in {comparison.other.name}", scale=scale, axis=axis)
    chart = alt.layer(
        alt.Chart(data(diagonal)).mark_line(color=MUTED, strokeDash=[4, 3]).encode(x=x, y=y),
        alt.Chart(data(rows))
        .mark_point(filled=True, size=70, color=COLOURS[1])
        .encode(x=x, y=y, tooltip=["configuration:N", "baseline:Q", "other:Q"]),
    )
    correlation = comparison.correlation(score, Correlation.SPEARMAN)
    said = "" if correlation is None else f" {Correlation.SPEARMAN}: {with_interval(correlation, 2)}."
    return Figure(
        f"ranks-{comparison.other.name}",
        "Ranks of the configurations",
        f"By {label}; 1 is the best. On the dashed line both arms agree.{said}",
        finish(chart),
    )


def pareto_front(arm: Arm) -> Figure | None:
    """Every completed trial by the first two objectives; a line through those that none is better than."""
    import altair as alt

    front = {trial.number for trial in arm.front}
    if not front:
        return None
    first, second = arm.objectives[:2]
    rows = [
        {
            "trial": trial.number,
            "first": trial.values[0],
            "second": trial.values[1],
            "is": "Pareto front" if trial.number in front else "other trials",
        }
        for trial in arm.completed
        if len(trial.values) > 1 and math.isfinite(trial.values[1])
    ]
    kinds = ["Pareto front", "other trials"]
    x = alt.X("second:Q", title=label(second.name), scale=alt.Scale(zero=False, nice=True))
    y = alt.Y("first:Q", title=label(first.name), scale=alt.Scale(zero=False, nice=True))
    colour = alt.Color("is:N", title=None, scale=alt.Scale(domain=kinds, range=[COLOURS[1], MUTED]))
    tooltip = [
        "trial:Q",
        alt.Tooltip("first:Q", title=label(first.name)),
        alt.Tooltip("second:Q", title=label(second.name)),
    ]
    chart = alt.layer(
        alt.Chart(data([row for row in rows if row["is"] == kinds[0]]))
        .mark_line(color=COLOURS[1], opacity=0.5)
        .encode(x=x, y=y),
        alt.Chart(data(rows)).mark_point(filled=True, size=60).encode(x=x, y=y, color=colour, tooltip=tooltip),
    )
    return Figure(
        f"pareto-front-{arm.name}",
        f"Pareto front of {arm.name}",
        f"Every completed trial. The front is that of all {len(arm.objectives)} objectives.",
        finish(chart),
    )


def importance(values: dict[str, dict[str, float]], arms: Sequence[Arm]) -> Figure | None:
    """The share of each parameter, by arm."""
    import altair as alt

    rows = [
        {"arm": arm, "parameter": parameter, "importance": share}
        for arm, shares in values.items()
        for parameter, share in shares.items()
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(data(rows))
        .mark_bar()
        .encode(
            x=alt.X("importance:Q", title="importance", scale=alt.Scale(domainMin=0)),
            y=alt.Y("parameter:N", title=None, sort="-x"),
            yOffset=alt.YOffset("arm:N", sort=[arm.name for arm in arms]),
            color=arm_colour(arms),
            tooltip=["arm:N", "parameter:N", alt.Tooltip("importance:Q", format=".2f")],
        )
    )
    height = max(120, 22 * len({row["parameter"] for row in rows}) * len(values))
    return Figure(
        "importance",
        "Importance of the hyperparameters",
        "PED-ANOVA: the share of each parameter in being among the best trials. With few trials it is a rough guide.",
        finish(chart, height=height),
    )


def class_scores(arms: Sequence[Arm], values: dict[str, dict[str, float]]) -> Figure | None:
    """F1 of each class, by arm."""
    import altair as alt

    rows = [{"arm": arm, "class": name, "f1": f1} for arm, scores in values.items() for name, f1 in scores.items()]
    if not rows:
        return None
    means = {name: f1 for scores in values.values() for name, f1 in scores.items()}
    order = sorted(means, key=lambda name: -means[name])
    chart = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("f1:Q", title="F1", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("class:N", title=None, sort=order, axis=alt.Axis(grid=True, labelLimit=260)),
            color=arm_colour(arms),
            shape=arm_shape(arms),
            tooltip=["arm:N", "class:N", alt.Tooltip("f1:Q", format=".4f")],
        )
    )
    return Figure(
        "class-f1",
        "F1 by class",
        "Validation split; the best configuration of each arm, mean of its seeds.",
        finish(chart, height=max(120, 17 * len(order))),
    )


def confusion(arm: Arm, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Samples by true and predicted class, as shares of the true one's."""
    import altair as alt

    rows = [
        {"true": names[i], "predicted": names[j], "samples": count, "share": count / max(1, sum(row))}
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
    ]
    order = list(names)
    base = alt.Chart(data(rows)).encode(
        x=alt.X("predicted:N", sort=order, title="predicted", axis=alt.Axis(labelAngle=-40, labelLimit=140)),
        y=alt.Y("true:N", sort=order, title="true", axis=alt.Axis(labelLimit=180)),
    )
    cells = base.mark_rect(color=COLOURS[1]).encode(
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.0, 1.0]), legend=None),
        tooltip=["true:N", "predicted:N", "samples:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    layers = [cells]
    if len(names) <= 20:
        layers.append(base.mark_text(fontSize=10, color=INK).encode(text="samples:Q"))
    return Figure(
        f"confusion-{arm.name}",
        f"Confusion: {arm.name}",
        "Validation samples of the best trial; the shade is the share of the true class.",
        finish(alt.layer(*layers), height=max(200, 24 * len(names))),
    )
