"""What a benchmark has found: ratios of what took turns in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table


class Row(NamedTuple):
    what: str
    case: str
    ratio: float
    target: str = ""
    """Such as ">= 1.2"; empty where there is none."""

    @property
    def is_met(self) -> bool | None:
        """None without a target."""
        if not self.target:
            return None
        comparison, bound = self.target.split()
        return self.ratio >= float(bound) if comparison == ">=" else self.ratio <= float(bound)


def table(title: str, rows: Sequence[Row]) -> Table:
    """Fit to be pasted into docs/benchmarks.md."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for heading in ("what", "case", "ratio", "target", "met"):
        table.add_column(heading, justify="left" if heading in ("what", "case") else "right", no_wrap=True)
    for row in rows:
        met = {None: "", True: "yes", False: "NO"}[row.is_met]
        table.add_row(row.what, row.case, f"{row.ratio:.2f}", row.target, met)
    return table
