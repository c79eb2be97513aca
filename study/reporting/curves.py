"""Charts over the epochs: figure 1 of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from study.reporting import statistics
from study.reporting.chart import Figure, arm_colour, arm_dash, data, finish
from study.reporting.load import Arm, Switch, Trial
from study.reporting.statistics import Band

_Curve = list[tuple[float | None, Band | None]]
"""The line and the band around it, by epoch."""


def time_per_epoch(arms: Sequence[Arm]) -> Figure | None:
    """Figure 1, top, of the paper."""
    rows = _curve_rows(arms, lambda arm: _bands_of(arm, "wall_s"))
    if not rows:
        return None
    chart = _banded_lines(arms, rows, "seconds per epoch", zero=True)
    return Figure(
        "time-per-epoch",
        "Time per epoch",
        "Mean over the trials that reached an epoch; band: 10th to 90th percentile of the trials. "
        + _switches_in_words(arms),
        finish(chart),
    )


def score_per_epoch(arms: Sequence[Arm], score: str, label: str) -> Figure | None:
    """Figure 1, centre, of the paper: the best configuration, and the spread of all."""

    def curve(arm: Arm) -> _Curve:
        spread = statistics.bands([_curve(arm, trial, score) for trial in arm.trials])
        best = arm.best
        own = statistics.bands([_curve(arm, trial, score) for trial in best.completed]) if best else []
        return [
            (own[e].mean if e < len(own) and own[e] is not None else None, spread[e])  # type: ignore[union-attr]
            for e in range(len(spread))
        ]

    rows = _curve_rows(arms, curve)
    if not rows:
        return None
    return Figure(
        f"{score.replace('_', '-')}-per-epoch",
        f"{label} per epoch",
        f"Validation {label}. Line: the best configuration, mean of its seeds; band: 10th to 90th percentile of all "
        "trials. " + _switches_in_words(arms),
        finish(_banded_lines(arms, rows, f"validation {label}", zero=False)),
    )


def _banded_lines(arms: Sequence[Arm], rows: list[dict[str, Any]], title: str, zero: bool) -> Any:
    import altair as alt

    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    scale = alt.Scale(zero=zero)
    colour, dash = arm_colour(arms), arm_dash(arms)
    band = (
        alt.Chart(data(rows))
        .mark_area(opacity=0.16)
        .encode(x=x, y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q", color=colour)
    )
    tooltip = ["arm:N", "epoch:Q", alt.Tooltip("line:Q", format=".4~f", title="value")]
    line = (
        alt.Chart(data(rows))
        .mark_line(strokeWidth=2, point={"size": 18, "filled": True} if len(rows) <= 60 else False)
        .encode(x=x, y=alt.Y("line:Q", title=title, scale=scale), color=colour, strokeDash=dash, tooltip=tooltip)
    )
    marks = [
        # Between the last epoch with the old size and the first with the new one.
        {"arm": arm.name, "epoch": switch.epoch + 0.5, "text": f"{switch.before} → {switch.after}"}
        for arm in arms
        for switch in _marked_switches(arm)
    ]
    layers: list[Any] = [band, line]
    if marks:
        base = alt.Chart(data(marks)).encode(x=alt.X("epoch:Q", title="epoch"), color=colour)
        layers.append(base.mark_rule(strokeDash=[3, 3], strokeWidth=1.2).encode(tooltip=["arm:N", "text:N"]))
        layers.append(
            # Above the plot: in it, curves would cross the words.
            base.mark_text(dy=-3, fontSize=10, baseline="bottom").encode(text="text:N", y=alt.value(0))
        )
    return alt.layer(*layers)


def _curve_rows(arms: Sequence[Arm], curve: Callable[[Arm], _Curve]) -> list[dict[str, Any]]:
    """One row per arm and epoch; epochs count from 1, as on the terminal."""
    return [
        {"arm": arm.name, "epoch": epoch, "line": line, "low": band.low, "high": band.high, "trials": band.count}
        for arm in arms
        for epoch, (line, band) in enumerate(curve(arm), start=1)
        if band is not None
    ]


def _bands_of(arm: Arm, name: str) -> _Curve:
    spread = statistics.bands([_curve(arm, trial, name) for trial in arm.trials])
    return [(band.mean if band is not None else None, band) for band in spread]


def _curve(arm: Arm, trial: Trial, name: str) -> Sequence[float | None]:
    """A value for each epoch so far. Of a trial under way only the objective is in the database."""
    if trial.record is None and name == arm.objective:
        return [trial.objective_by_epoch.get(e) for e in range(max(trial.objective_by_epoch, default=-1) + 1)]
    if trial.record is not None and name in trial.record.curves:
        # A finite value in every epoch is what a driver stores; who knows what else is in a database.
        return [v if v is not None and math.isfinite(v) else None for v in trial.record.curves[name]]
    return []


def _marked_switches(arm: Arm) -> Sequence[Switch]:
    """Those that most trials share; a policy that decides by itself has one per trial, and no mark."""
    trained = sum(bool(trial.batch_sizes) for trial in arm.trials)
    return [switch for switch in arm.switches if 2 * switch.trials > trained][:8]


def _switches_in_words(arms: Sequence[Arm]) -> str:
    said = []
    for arm in arms:
        marked = _marked_switches(arm)
        if marked:
            changes = ", ".join(f"{s.before} → {s.after} from epoch {s.epoch + 1}" for s in marked)
            said.append(f"{arm.name} switches its batch {changes}.")
        elif arm.switches:
            epochs = [switch.epoch + 1 for switch in arm.switches]
            said.append(f"{arm.name} switches at epochs {min(epochs)} to {max(epochs)}, by trial.")
    return " ".join(said)
