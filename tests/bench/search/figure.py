"""The figure of docs/results/search.md: the best score so far against what it has cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from study.reporting.chart import COLOURS, Figure, data, finish
from tests.bench.search.timeline import Search


def figure(searches: Sequence[Search], methods: Sequence[str]) -> Figure:
    """A line for each method and seed; epochs as a share of those of the first method."""
    import altair as alt

    colour = alt.Color("method:N", title=None, scale=alt.Scale(domain=[*methods], range=COLOURS[: len(methods)]))
    whole = {search.seed: search.cost for search in searches if search.method == methods[0]}
    chart = (
        alt.Chart(data([row for search in searches for row in _rows(search, whole[search.seed])]))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("spent:Q", title="epochs, of those of random search"),
            y=alt.Y("best:Q", title="best F1 micro so far", scale=alt.Scale(zero=False)),
            color=colour,
            strokeDash=alt.StrokeDash("seed:N", title="seed"),
            detail="seed:N",
        )
    )
    return Figure("search", "Best score so far, by cost", "", finish(chart, 320), is_wide=True)


def _rows(search: Search, whole: float) -> list[dict[str, Any]]:
    """With the end of the search as the last point."""
    points = [*search.progress(), (search.cost, search.best)]
    return [
        {"method": search.method, "seed": str(search.seed), "spent": spent / whole, "best": best}
        for spent, best in points
    ]
