"""Charts of the report, as Vega-Lite. Colours come as a palette: the page's follow its theme, a file's are fixed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from study.reporting import statistics
from study.reporting.compare_arms import Comparison
from study.reporting.load import Arm, Configuration
from study.reporting.statistics import Band, Correlation, Estimate

if TYPE_CHECKING:
    import altair as alt

_HEIGHT = 230
_FILE_WIDTH = 420
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3]]
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
MAX_ARMS = len(_SHAPES)
"""That a chart can tell apart."""


@dataclass(frozen=True)
class Figure:
    """A chart of the report."""

    key: str
    """The name of its file."""
    title: str
    caption: str
    spec: dict[str, Any]
    """Vega-Lite, as wide as its container, with the page's colours."""
    is_wide: bool = False

    def for_file(self) -> dict[str, Any]:
        """The specification with a width and with colours of its own."""
        text = json.dumps(self.spec)
        for variable, colour in _ON_PAPER.items():
            text = text.replace(f"var({variable})", colour)
        return {**json.loads(text), "width": _FILE_WIDTH * (2 if self.is_wide else 1), "background": "white"}

    def svg(self) -> str:
        import vl_convert

        return str(vl_convert.vegalite_to_svg(self.for_file(), vl_version=vega_lite_version()))

    def png(self) -> bytes:
        import vl_convert

        return bytes(vl_convert.vegalite_to_png(self.for_file(), vl_version=vega_lite_version(), scale=2))

    def pdf(self) -> bytes:
        import vl_convert

        return bytes(vl_convert.vegalite_to_pdf(self.for_file(), vl_version=vega_lite_version()))


# As the style sheet of the page has them in its light theme.
_ON_PAPER = {
    "--ink": "#1d2329",
    "--muted": "#59636e",
    "--line": "#d4d9de",
    "--arm-0": "#b4560b",
    "--arm-1": "#1f5fae",
    "--arm-2": "#1d7a4c",
    "--arm-3": "#8e3b92",
    "--arm-4": "#b3261e",
    "--arm-5": "#5d6470",
}
_COLOURS = [f"var(--arm-{i})" for i in range(MAX_ARMS)]
_INK, _MUTED, _LINE = "var(--ink)", "var(--muted)", "var(--line)"


def vega_lite_version() -> str:
    """That Altair writes, as vl-convert names it: 6.1."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


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
        _finish(chart),
    )


def score_per_epoch(arms: Sequence[Arm], score: str, label: str) -> Figure | None:
    """Figure 1, centre, of the paper: the best configuration, and the spread of all."""

    def curve(arm: Arm) -> list[tuple[float | None, Band | None]]:
        spread = statistics.bands([_curve(trial, score) for trial in arm.trials])
        best = arm.best
        own = statistics.bands([_curve(trial, score) for trial in best.completed]) if best else []
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
        _finish(_banded_lines(arms, rows, f"validation {label}", zero=False)),
    )


def paired_differences(comparison: Comparison, score: str, label: str) -> Figure | None:
    """Each shared configuration's difference, in order, and their mean with its interval."""
    import altair as alt

    differences, mean = comparison.differences(score), comparison.mean_difference(score)
    if mean is None:
        return None
    names = [label_of(pair.baseline) for pair in comparison.pairs if pair.values(score) is not None]
    rows = [{"configuration": n, "difference": d} for n, d in zip(names, differences, strict=True)]
    rows.sort(key=lambda row: row["difference"])  # type: ignore[arg-type,return-value]
    order = [row["configuration"] for row in rows]
    title = f"{label}: {comparison.other.name} − {comparison.baseline.name}"
    x = alt.X("difference:Q", title=title, axis=alt.Axis(format="+.3~f"))
    y = alt.Y("configuration:N", title=None, sort=order)
    layers: list[alt.Chart] = [
        alt.Chart(_data([{"at": 0}])).mark_rule(color=_MUTED, strokeDash=[4, 3]).encode(x=alt.X("at:Q", title=title)),
        alt.Chart(_data(rows))
        .mark_point(filled=True, size=60, color=_COLOURS[1])
        .encode(x=x, y=y, tooltip=[alt.Tooltip("configuration:N"), alt.Tooltip("difference:Q", format="+.4f")]),
    ]
    if mean.has_interval:
        box = [{"low": mean.low, "high": mean.high, "mean": mean.value}]
        layers.insert(
            0,
            alt.Chart(_data(box))
            .mark_rect(color=_COLOURS[1], opacity=0.16)
            .encode(x=alt.X("low:Q", title=title), x2="high:Q"),
        )
    layers.append(
        alt.Chart(_data([{"mean": mean.value}]))
        .mark_rule(color=_COLOURS[1], strokeWidth=2)
        .encode(x=alt.X("mean:Q", title=title))
    )
    return Figure(
        f"difference-{score.replace('_', '-')}-{comparison.other.name}",
        f"Difference in {label} by configuration",
        f"{comparison.other.name} minus {comparison.baseline.name}, each the mean of a configuration's seeds. Line and "
        "shade: mean and its 95 % interval.",
        _finish(alt.layer(*layers), height=max(120, 18 * len(rows))),
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
        alt.Chart(_data(diagonal)).mark_line(color=_MUTED, strokeDash=[4, 3]).encode(x=x, y=y),
        alt.Chart(_data(rows))
        .mark_point(filled=True, size=70, color=_COLOURS[1])
        .encode(x=x, y=y, tooltip=["configuration:N", "baseline:Q", "other:Q"]),
    )
    correlation = comparison.correlation(score, Correlation.SPEARMAN)
    said = "" if correlation is None else f" {Correlation.SPEARMAN}: {_in_words(correlation)}."
    return Figure(
        f"ranks-{comparison.other.name}",
        "Ranks of the configurations",
        f"By {label}; 1 is the best. On the dashed line both arms agree.{said}",
        _finish(chart),
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
        alt.Chart(_data(rows))
        .mark_bar()
        .encode(
            x=alt.X("importance:Q", title="importance", scale=alt.Scale(domainMin=0)),
            y=alt.Y("parameter:N", title=None, sort="-x"),
            yOffset=alt.YOffset("arm:N", sort=[arm.name for arm in arms]),
            color=_arm_colour(arms),
            tooltip=["arm:N", "parameter:N", alt.Tooltip("importance:Q", format=".2f")],
        )
    )
    height = max(120, 22 * len({row["parameter"] for row in rows}) * len(values))
    return Figure(
        "importance",
        "Importance of the hyperparameters",
        "PED-ANOVA: the share of each parameter in being among the best trials. With few trials it is a rough guide.",
        _finish(chart, height=height),
    )


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
        x = alt.X("value:Q", title=name, scale=alt.Scale(type=kind, zero=False, nice=kind == "linear"))
        if kind == "log":
            x.axis = alt.Axis(format="~g", labelOverlap=True, tickCount=5)
    chart = (
        alt.Chart(_data(rows))
        .mark_point(filled=True, size=45, opacity=0.8)
        .encode(
            x=x,
            y=alt.Y("score:Q", title=label, scale=alt.Scale(zero=False)),
            color=_arm_colour(arms),
            shape=_arm_shape(arms),
            tooltip=["arm:N", "trial:Q", "value:N", alt.Tooltip("score:Q", format=".4f")],
        )
    )
    return Figure(f"slice-{name}", name, f"{label} of each completed trial.", _finish(chart, height=180))


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
        alt.Chart(_data(rows))
        .mark_line(point={"filled": True, "size": 25, "color": _COLOURS[1]}, color=_COLOURS[1])
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
            alt.Chart(_data([end for end in ends if end["height"] == height]))
            .mark_text(dy=dy, color=_MUTED, fontSize=10)
            .encode(x=x, y=y, text="text:N")
            for height, dy in ((0, 11), (1, -11))
        )
    )
    return Figure(
        f"parallel-{arm.name}",
        f"Parallel coordinates: {arm.name}",
        f"One line per configuration; the darker, the higher its {label}.",
        _finish(alt.layer(lines, labels)),
        is_wide=True,
    )


def class_scores(arms: Sequence[Arm], values: dict[str, dict[str, float]]) -> Figure | None:
    """F1 of each class, by arm."""
    import altair as alt

    rows = [{"arm": arm, "class": name, "f1": f1} for arm, scores in values.items() for name, f1 in scores.items()]
    if not rows:
        return None
    order = list(dict.fromkeys(row["class"] for row in sorted(rows, key=lambda row: -float(row["f1"]))))
    chart = (
        alt.Chart(_data(rows))
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("f1:Q", title="F1", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("class:N", title=None, sort=order, axis=alt.Axis(grid=True, labelLimit=260)),
            color=_arm_colour(arms),
            shape=_arm_shape(arms),
            tooltip=["arm:N", "class:N", alt.Tooltip("f1:Q", format=".4f")],
        )
    )
    return Figure(
        "class-f1",
        "F1 by class",
        "Validation split; the best configuration of each arm, mean of its seeds.",
        _finish(chart, height=max(120, 17 * len(order))),
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
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("predicted:N", sort=order, title="predicted", axis=alt.Axis(labelAngle=-40, labelLimit=140)),
        y=alt.Y("true:N", sort=order, title="true", axis=alt.Axis(labelLimit=180)),
    )
    cells = base.mark_rect(color=_COLOURS[1]).encode(
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.0, 1.0]), legend=None),
        tooltip=["true:N", "predicted:N", "samples:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    layers = [cells]
    if len(names) <= 20:
        layers.append(base.mark_text(fontSize=10, color=_INK).encode(text="samples:Q"))
    return Figure(
        f"confusion-{arm.name}",
        f"Confusion: {arm.name}",
        "Validation samples of the best trial; the shade is the share of the true class.",
        _finish(alt.layer(*layers), height=max(200, 24 * len(names))),
    )


def label_of(configuration: Configuration) -> str:
    """By the numbers of its trials."""
    numbers = [trial.number for trial in configuration.trials]
    if len(numbers) == 1:
        return f"trial {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"trials {numbers[0]}–{numbers[-1]}"
    return f"trials {', '.join(map(str, numbers))}"


def _banded_lines(arms: Sequence[Arm], rows: list[dict[str, Any]], title: str, zero: bool) -> alt.LayerChart:
    import altair as alt

    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    scale = alt.Scale(zero=zero)
    colour, dash = _arm_colour(arms), _arm_dash(arms)
    band = (
        alt.Chart(_data(rows))
        .mark_area(opacity=0.16)
        .encode(x=x, y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q", color=colour)
    )
    tooltip = ["arm:N", "epoch:Q", alt.Tooltip("line:Q", format=".4~f", title="value")]
    line = (
        alt.Chart(_data(rows))
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
        base = alt.Chart(_data(marks)).encode(x=alt.X("epoch:Q", title="epoch"), color=colour)
        layers.append(base.mark_rule(strokeDash=[3, 3], strokeWidth=1.2).encode(tooltip=["arm:N", "text:N"]))
        layers.append(
            base.mark_text(align="left", dx=4, dy=2, fontSize=10, baseline="top").encode(text="text:N", y=alt.value(0))
        )
    return alt.layer(*layers)


def _curve_rows(arms: Sequence[Arm], curve: Any) -> list[dict[str, Any]]:
    """One row per arm and epoch; epochs count from 1, as on the terminal."""
    return [
        {"arm": arm.name, "epoch": epoch, "line": line, "low": band.low, "high": band.high, "trials": band.count}
        for arm in arms
        for epoch, (line, band) in enumerate(curve(arm), start=1)
        if band is not None
    ]


def _bands_of(arm: Arm, name: str) -> list[tuple[float | None, Band | None]]:
    spread = statistics.bands([_curve(trial, name) for trial in arm.trials])
    return [(band.mean if band is not None else None, band) for band in spread]


def _curve(trial: Any, name: str) -> Sequence[float | None]:
    """A value for each epoch of a trial; the objective of one that is not over is there, too."""
    if trial.record is not None and name in trial.record.curves:
        return list(trial.record.curves[name])
    return []


def _marked_switches(arm: Arm) -> Sequence[Any]:
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


def _parameters(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(name for arm in arms for trial in arm.completed for name in trial.parameters))


def _distribution(arms: Iterable[Arm], name: str) -> Any:
    found = (t.distributions[name] for arm in arms for t in arm.trials if name in t.distributions)
    return next(found, None)


def _height(arm: Arm, name: str, configuration: Configuration) -> float | None:
    """Where a value lies on its axis, from 0 to 1."""
    import math

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


def _in_words(estimate: Estimate) -> str:
    if not estimate.has_interval:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} (95 % interval {estimate.low:.2f} to {estimate.high:.2f})"


def _data(rows: list[dict[str, Any]]) -> alt.Data:
    import altair as alt

    return alt.Data(values=rows)


def _arm_colour(arms: Sequence[Arm]) -> alt.Color:
    import altair as alt

    return alt.Color("arm:N", title=None, scale=alt.Scale(domain=[a.name for a in arms], range=_COLOURS[: len(arms)]))


def _arm_shape(arms: Sequence[Arm]) -> alt.Shape:
    import altair as alt

    return alt.Shape("arm:N", title=None, scale=alt.Scale(domain=[a.name for a in arms], range=_SHAPES[: len(arms)]))


def _arm_dash(arms: Sequence[Arm]) -> alt.StrokeDash:
    import altair as alt

    scale = alt.Scale(domain=[a.name for a in arms], range=_DASHES[: len(arms)])
    return alt.StrokeDash("arm:N", title=None, scale=scale)


def _finish(chart: Any, height: int = _HEIGHT) -> dict[str, Any]:
    """The specification as JSON, as wide as what it stands in, in the page's colours."""
    text = {"labelColor": _MUTED, "titleColor": _INK, "labelFontSize": 11, "titleFontSize": 12}
    config = {
        "font": "system-ui, 'Helvetica Neue', Arial, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "titleFontWeight": "normal", "gridColor": _LINE, "domainColor": _MUTED, "tickColor": _MUTED},
        "legend": {**text, "orient": "top", "direction": "horizontal", "symbolSize": 80, "labelLimit": 240},
    }
    specification: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    return {
        **specification,
        "config": config,
        "background": "transparent",
        "autosize": {"type": "fit", "contains": "padding"},
    }
