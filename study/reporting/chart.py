"""A chart as a value, and what all charts of a report share: colours, marks of the arms, type and axes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.reporting.load import Arm

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
        spec = {**json.loads(text), "background": "white"}
        # Panels have widths of their own.
        return spec if "hconcat" in spec else {**spec, "width": _FILE_WIDTH * (2 if self.is_wide else 1)}

    def svg(self) -> str:
        import vl_convert

        return str(vl_convert.vegalite_to_svg(self.for_file(), vl_version=vega_lite_version()))

    def png(self) -> bytes:
        import vl_convert

        return bytes(vl_convert.vegalite_to_png(self.for_file(), vl_version=vega_lite_version(), scale=2))

    def pdf(self) -> bytes:
        import vl_convert

        return bytes(vl_convert.vegalite_to_pdf(self.for_file(), vl_version=vega_lite_version()))


def beside(figures: Sequence[Figure]) -> Figure:
    """Several charts in a row, as one for a file."""
    single = [figure.for_file() for figure in figures]
    shared = {name: single[0][name] for name in ("$schema", "config") if single}
    datasets = {name: rows for spec in single for name, rows in spec.get("datasets", {}).items()}
    views = [{k: v for k, v in spec.items() if k not in _OF_THE_WHOLE} for spec in single]
    titled = [{**view, "title": figure.title} for view, figure in zip(views, figures, strict=True)]
    return Figure("panels", "", "", {**shared, "datasets": datasets, "hconcat": titled})


_OF_THE_WHOLE = ("$schema", "config", "datasets", "background", "autosize")

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
COLOURS = [f"var(--arm-{i})" for i in range(MAX_ARMS)]
INK, MUTED, LINE = "var(--ink)", "var(--muted)", "var(--line)"


def vega_lite_version() -> str:
    """That Altair writes, as vl-convert names it: 6.1."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def data(rows: list[dict[str, Any]]) -> alt.Data:
    import altair as alt

    # JSON has neither NaN nor infinity.
    finite = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in rows
    ]
    return alt.Data(values=finite)


def arm_colour(arms: Sequence[Arm]) -> alt.Color:
    import altair as alt

    scale = alt.Scale(domain=[arm.name for arm in arms], range=COLOURS[: len(arms)])
    # Else it would be as pale as a band.
    return alt.Color("arm:N", title=None, scale=scale, legend=alt.Legend(symbolOpacity=1))


def arm_shape(arms: Sequence[Arm]) -> alt.Shape:
    import altair as alt

    return alt.Shape("arm:N", title=None, scale=alt.Scale(domain=[a.name for a in arms], range=_SHAPES[: len(arms)]))


def arm_dash(arms: Sequence[Arm]) -> alt.StrokeDash:
    import altair as alt

    scale = alt.Scale(domain=[a.name for a in arms], range=_DASHES[: len(arms)])
    return alt.StrokeDash("arm:N", title=None, scale=scale)


def finish(chart: Any, height: int = _HEIGHT) -> dict[str, Any]:
    """The specification as JSON, as wide as what it stands in, in the page's colours."""
    text = {"labelColor": MUTED, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 12}
    config = {
        "font": "system-ui, 'Helvetica Neue', Arial, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "titleFontWeight": "normal", "gridColor": LINE, "domainColor": MUTED, "tickColor": MUTED},
        "legend": {**text, "orient": "top", "direction": "horizontal", "symbolSize": 80, "labelLimit": 240},
    }
    specification: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    return {
        **specification,
        "config": config,
        "background": "transparent",
        "autosize": {"type": "fit", "contains": "padding"},
    }
