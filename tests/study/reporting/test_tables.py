"""One table, read by people, spreadsheets and LaTeX."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from study.reporting.statistics import Estimate
from study.reporting.tables import Column, ReportTable, latex_escaped

TABLE = ReportTable(
    "scores",
    "Scores & 95 % intervals",
    (Column("arm_name", is_number=False), Column("F1", 2), Column("change", 3, is_signed=True), Column("trials", 0)),
    (
        ("a, b", Estimate(0.123456, 0.1, 0.2), -0.5, 3),
        ("[bold]", 0.987654321, Estimate(0.25), None),
    ),
    "Note: 50 % of {all}.",
)


def test_people_read_rounded_numbers_with_their_interval():
    assert TABLE.texts() == [
        ["a, b", "0.12 (0.10 to 0.20)", "−0.500", "3"],
        ["[bold]", "0.99", "+0.250", "–"],
    ]


def test_a_csv_has_all_digits_and_the_interval_in_columns_of_its_own():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))

    assert list(rows[0]) == ["arm_name", "F1", "F1, 95 % low", "F1, 95 % high", "change", "trials"]
    assert rows[0] == {
        "arm_name": "a, b",
        "F1": "0.123456",
        "F1, 95 % low": "0.1",
        "F1, 95 % high": "0.2",
        "change": "-0.5",
        "trials": "3",
    }
    assert [float(row["F1"]) for row in rows] == [0.123456, 0.987654321]
    assert rows[1]["trials"] == rows[1]["F1, 95 % low"] == ""


def test_latex_has_booktabs_and_as_many_cells_as_columns():
    text = TABLE.latex()

    assert r"\begin{tabular}{lrrr}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert r"\caption{Scores \& 95 \% intervals}" in text
    assert r"arm\_name" in text
    assert r"50 \% of \{all\}" in text


def test_latex_of_many_rows_breaks_over_pages_and_long_texts_over_lines():
    columns = (Column("trial", digits=0), Column("configuration", is_number=False), Column("end", is_number=False))
    rows = tuple((number, "learning_rate=0.01 momentum=0.9 nesterov=True", "pruned") for number in range(200))

    text = ReportTable("trials", "All trials", columns, rows, "Seconds.").latex()

    assert r"\begin{longtable}{r>{\raggedright\arraybackslash}p{0.25\linewidth}l}" in text
    assert text.count(r" \\") == len(rows) + 2
    assert text.count("{") == text.count("}")


def test_every_special_character_of_latex_is_escaped():
    escaped = latex_escaped(r"a_b & 50% #1 $x^2$ {y} ~z \end <>| − →")

    assert escaped == (
        r"a\_b \& 50\% \#1 \$x\textasciicircum{}2\$ \{y\} \textasciitilde{}z \textbackslash{}end "
        r"\textless{}\textgreater{}\textbar{} $-$ $\rightarrow$"
    )


def test_a_terminal_shows_brackets_as_they_are():
    console = Console(file=io.StringIO(), width=120)

    console.print(TABLE.rich())

    assert "[bold]" in console.file.getvalue()
    assert "0.12 (0.10 to 0.20)" in console.file.getvalue()


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="table t: 1 columns, and a row of 2"):
        ReportTable("t", "", (Column("a"),), ((1, 2),))
