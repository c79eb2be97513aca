"""One kind of table, set as HTML (by the page's template), CSV, LaTeX and for a terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.reporting.statistics import Estimate

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Cell = str | int | float | bool | Estimate | None
"""None: there is no such number."""

_NONE = "–"
_LONGEST_FLOAT = 40
"""Rows that surely fit on a page."""
_LONGEST_WORDS = 40
"""Characters of a text that stay on one line."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Column:
    heading: str
    digits: int = 4
    """After the decimal point, where it is read by people; a CSV has them all."""
    is_number: bool = True
    is_signed: bool = False
    """Whether a plus is shown."""


@dataclass(frozen=True)
class ReportTable:
    """A table of the report."""

    key: str
    """The name of its files."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if wrong := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(f"table {self.key}: {len(self.columns)} columns, and a row of {len(wrong[0])}: {wrong[0]}")

    def texts(self) -> list[list[str]]:
        """The cells as people read them."""
        return [[as_text(cell, column) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows]

    def csv(self) -> str:
        """One line per row, numbers in full; an estimate becomes three columns, of which the last two may be empty."""
        with_intervals = [
            any(isinstance(row[i], Estimate) and row[i].has_interval for row in self.rows)  # type: ignore[union-attr]
            for i in range(len(self.columns))
        ]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            heading
            for column, wide in zip(self.columns, with_intervals, strict=True)
            for heading in _headings(column.heading, wide)
        )
        for row in self.rows:
            writer.writerow(
                value for cell, wide in zip(row, with_intervals, strict=True) for value in _values(cell, wide)
            )
        return out.getvalue()

    def latex(self) -> str:
        """As wide as the line at most: a table that floats, or one that breaks over pages where it has many rows."""
        lines = self._latex_of_pages() if len(self.rows) > _LONGEST_FLOAT else self._latex_float()
        return "\n".join([*lines, ""])

    def _latex_float(self) -> list[str]:
        alignment = "".join("r" if column.is_number else "l" for column in self.columns)
        return [
            r"% \usepackage{booktabs, graphicx}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_escaped(self.title)}}}",
            rf"  \label{{tab:{self.key}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{{alignment}}}",
            r"    \toprule",
            f"    {self._latex_head()}",
            r"    \midrule",
            *(f"    {_latex_row(row)}" for row in self.texts()),
            r"    \bottomrule",
            r"  \end{tabular}}",
            *([rf"  \par\smallskip\footnotesize {latex_escaped(self.note)}"] if self.note else []),
            r"\end{table}",
        ]

    def _latex_of_pages(self) -> list[str]:
        texts = self.texts()
        alignment = "".join(
            "r" if column.is_number else _paragraph(max(len(row[i]) for row in texts))
            for i, column in enumerate(self.columns)
        )
        return [
            r"% \usepackage{booktabs, longtable, array}",
            r"{\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{longtable}}{{{alignment}}}",
            rf"  \caption{{{latex_escaped(self.title)}}}\label{{tab:{self.key}}} \\",
            r"  \toprule",
            f"  {self._latex_head()}",
            r"  \midrule",
            r"  \endhead",
            r"  \bottomrule",
            r"  \endfoot",
            *(f"  {_latex_row(row)}" for row in texts),
            r"\end{longtable}",
            *([latex_escaped(self.note)] if self.note else []),
            r"}",
        ]

    def _latex_head(self) -> str:
        return _latex_row(column.heading for column in self.columns)

    def rich(self) -> RichTable:
        """For a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left", caption=Text(self.note) if self.note else None)
        table.caption_justify = "left"
        for column in self.columns:
            table.add_column(Text(column.heading), justify="right" if column.is_number else "left", overflow="fold")
        for row in self.texts():
            table.add_row(*map(Text, row))
        return table


def as_text(cell: Cell, column: Column) -> str:
    """A cell as people read it: numbers with the column's digits and a proper minus."""
    match cell:
        case None:
            return _NONE
        case bool():
            return "yes" if cell else "no"
        case str():
            return cell
        case int():
            return _proper_minus(f"{cell:+d}" if column.is_signed else f"{cell}")
        case float():
            return _number(cell, column)
        case Estimate(value=value, low=float() as low, high=float() as high):
            return f"{_number(value, column)} ({_number(low, column)} to {_number(high, column)})"
    return _number(cell.value, column)


def latex_escaped(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)


def _number(value: float, column: Column) -> str:
    return _proper_minus(f"{value:{'+' * column.is_signed}.{column.digits}f}")


def _proper_minus(text: str) -> str:
    return text.replace("-", "−")


def _headings(heading: str, wide: bool) -> Iterator[str]:
    yield heading
    if wide:
        yield from (f"{heading}, 95 % low", f"{heading}, 95 % high")


def _values(cell: Cell, wide: bool) -> Iterator[str]:
    estimate = cell if isinstance(cell, Estimate) else None
    plain = estimate.value if estimate is not None else cell
    yield "" if plain is None else repr(plain) if isinstance(plain, float) else str(plain)
    if wide:
        bounds = (estimate.low, estimate.high) if estimate is not None else (None, None)
        yield from ("" if bound is None else repr(bound) for bound in bounds)


def _latex_row(cells: Iterator[str] | list[str]) -> str:
    return " & ".join(map(latex_escaped, cells)) + r" \\"


def _paragraph(characters: int) -> str:
    """The column of a text: one that breaks its lines, where it is a long one."""
    return r">{\raggedright\arraybackslash}p{0.25\linewidth}" if characters > _LONGEST_WORDS else "l"
