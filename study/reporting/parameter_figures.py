"""Charts of the score against the hyperparameters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution

from study.reporting.chart import COLOURS, MUTED, Figure, arm_colour, arm_shape, data, finish
from study.reporting.load import Arm, Configuration
from study.reporting.wording import label_of


def slices(arms: Sequence[Arm], score: str, label: str) -> list[Figure]:
    """The score against each parameter."""
    return [chart for name in _parameters(arms) if (chart := _slice(arms, name, score, label)) is not None]


def _slice(arms: Sequence[Arm], name: str, score: str, label: str) -> Figure | None:
    import altair as alt

    rows = [
        {"arm": arm.name, "value": trial.parameters[name], "score": value, "trial": trial.number}
        for arm in arms
        for trial in arm.completed
        if name in trial.parameters and (value := trial.score(score)) is not None
    ]
    if not rows:
        return None
    distribution = _distribution(arms, name)
    if isinstance(distribution, CategoricalDistribution):
        rows = [{**row, "value": str(row["value"])} for row in rows]
        x = alt.X("value:N", title=name, axis=alt.Axis(labelAngle=0))
    else:
        kind = "log" if getattr(distribution, "log", False) else "linear"
        scale = alt.Scale(type="log", nice=False, padding=8) if kind == "log" else alt.Scale(zero=False, padding=8)
        axis = alt.Axis(format="~g", tickCount=4, labelOverlap=True, labelFlush=True)
        x = alt.X("value:Q", title=name, scale=scale, axis=axis)
    chart = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=45, opacity=0.8)
        .encode(
            x=x,
            y=alt.Y("score:Q", title=label, scale=alt.Scale(zero=False, padding=6)),
            color=arm_colour(arms),
            shape=arm_shape(arms),
            tooltip=["arm:N", "trial:Q", "value:N", alt.Tooltip("score:Q", format=".4f")],
        )
    )
    return Figure(f"slice-{name}", name, f"{label} of each completed trial.", finish(chart, height=180))


def parallel_coordinates(arm: Arm, score: str, label: str) -> Figure | None:
    """One line per configuration through its parameters to its score."""
    import altair as alt

    scored = [(c, value) for c in arm.configurations if (value := c.mean(score)) is not None]
    names = _parameters([arm])
    if len(scored) < 2 or not names:
        return None
    low, high = min(value for _, value in scored), max(value for _, value in scored)
    axes = [*names, label]
    rows = []
    for configuration, value in scored:
        share = (value - low) / (high - low) if high > low else 1.0
        heights = [_height(arm, name, configuration) for name in names]
        for axis, height in zip(axes, [*heights, share], strict=True):
            shown = value if axis == label else configuration.parameters.get(axis)
            rows.append(
                {
                    "axis": axis,
                    "height": height,
                    "share": share,
                    "value": f"{shown:.4g}" if isinstance(shown, float) else str(shown),
                    "configuration": label_of(configuration),
                }
            )
    ends = [
        {"axis": axis, "height": height, "text": text}
        for axis in axes
        for height, text in zip((0, 1), _ends(arm, axis, low, high), strict=True)
    ]
    x = alt.X("axis:N", sort=axes, title=None, axis=alt.Axis(labelAngle=0, domain=False, grid=True, tickSize=0))
    y = alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[-0.08, 1.08]))
    lines = (
        alt.Chart(data(rows))
        .mark_line(point={"filled": True, "size": 25, "color": COLOURS[1]}, color=COLOURS[1])
        .encode(
            x=x,
            y=y,
            detail="configuration:N",
            opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.12, 1.0]), legend=None),
            strokeWidth=alt.StrokeWidth("share:Q", scale=alt.Scale(domain=[0, 1], range=[1, 2.5]), legend=None),
            order=alt.Order("axis_order:Q"),
            tooltip=["configuration:N", "axis:N", "value:N"],
        )
        .transform_calculate(axis_order=f"indexof({json.dumps(axes)}, datum.axis)")
    )
    labels = alt.layer(
        *(
            alt.Chart(data([end for end in ends if end["height"] == height]))
            .mark_text(dy=dy, color=MUTED, fontSize=10)
            .encode(x=x, y=y, text="text:N")
            for height, dy in ((0, 11), (1, -11))
        )
    )
    return Figure(
        f"parallel-{arm.name}",
        f"Parallel coordinates: {arm.name}",
        f"One line per configuration; the bolder, the higher its {label}.",
        finish(alt.layer(lines, labels)),
        is_wide=True,
    )


def _parameters(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(name for arm in arms for trial in arm.completed for name in trial.parameters))


def _distribution(arms: Iterable[Arm], name: str) -> Any:
    found = (t.distributions[name] for arm in arms for t in arm.trials if name in t.distributions)
    return next(found, None)


def _height(arm: Arm, name: str, configuration: Configuration) -> float | None:
    """Where a value lies on its axis, from 0 to 1."""
    value, distribution = configuration.parameters.get(name), _distribution([arm], name)
    if value is None or distribution is None:
        return None
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        return choices.index(value) / max(1, len(choices) - 1) if value in choices else None
    low, high = float(distribution.low), float(distribution.high)
    if high <= low:
        return 0.5
    if distribution.log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _ends(arm: Arm, axis: str, low: float, high: float) -> tuple[str, str]:
    """What stands below and above an axis."""
    distribution = _distribution([arm], axis)
    if distribution is None:
        return f"{low:.3f}", f"{high:.3f}"
    if isinstance(distribution, CategoricalDistribution):
        return str(distribution.choices[0]), str(distribution.choices[-1])
    return f"{distribution.low:g}", f"{distribution.high:g}"
