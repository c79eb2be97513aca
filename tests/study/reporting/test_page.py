"""What the page and its files hold."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from storage.database import schema
from storage.database.schema import Opening
from storage.protocol.codec import to_plain
from study.reporting import page
from study.reporting.content import Report, make_report
from study.reporting.curves import score_per_epoch
from study.reporting.load import load_arms
from tests.study.reporting.made_studies import (
    CONSTANT,
    SWITCH,
    arm,
    completed,
    config,
    experiment,
    failed,
    running,
    store,
)

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
FIVE_MB = 5 * 10**6


@pytest.fixture(scope="module")
def report() -> Report:
    arms = [arm(name, trials, identity["batch_policy"]) for name, (identity, trials) in experiment().items()]
    return make_report(arms, NOW)


def table(report: Report, key: str) -> list[dict[str, str]]:
    [found] = [table for table in report.tables if table.key == key]
    return list(csv.DictReader(io.StringIO(found.csv())))


class _Scripts(HTMLParser):
    """Each script's text, and everything that would fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append("")
        self.fetched += [
            f"{tag} {name}"
            for name, value in attributes
            if name == "src" or (name == "href" and not (value or "").startswith("#"))
        ]

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def parsed(text: str) -> _Scripts:
    scripts = _Scripts()
    scripts.feed(text)
    return scripts


def test_the_page_is_one_small_file_that_fetches_nothing(report):
    text = page.page(report)

    assert len(text.encode()) < FIVE_MB
    assert parsed(text).fetched == []
    assert "default-src 'none'" in text


def test_each_chart_of_the_page_has_its_data(report):
    text = page.page(report)

    specifications = json.loads(parsed(text).scripts[0])
    assert set(re.findall(r'data-chart="([^"]+)"', text)) == set(specifications)
    assert {"time-per-epoch", "f1-micro-per-epoch", "f1-macro-per-epoch", "ranks-switch", "importance"} <= set(
        specifications
    )
    assert all(spec["width"] == "container" for spec in specifications.values())


HOSTILE = "</script><img src=x onerror=alert(1)>&amp;{{ 7*7 }}<!--"


def test_whatever_a_name_or_a_reason_holds_stays_text():
    trials = [completed(n, 0.5 + n / 100, stored={"hosts": [HOSTILE]}) for n in range(3)]
    hostile = replace(arm("a", [*trials, failed(5, HOSTILE)]), name=HOSTILE)

    text = page.page(make_report([hostile], NOW))

    scripts = parsed(text)
    assert len(scripts.scripts) == 3
    assert scripts.fetched == []
    assert HOSTILE in "".join(scripts.text)
    assert json.loads(scripts.scripts[0])["time-per-epoch"]


def test_table_1_has_the_papers_rows_and_ours(report):
    rows = {row[""]: row for row in table(report, "table-1")}

    paper = rows["paper, constant"], rows["paper, switched"]
    assert [(row["total runtime (h)"], row["mean trial (min)"]) for row in paper] == [("27", "355"), ("10", "136")]
    assert [(row["F1 micro"], row["F1 macro"]) for row in paper] == [("0.78", "0.72"), ("0.78", "0.70")]
    ours = rows["switch"]
    assert ours["global batch size"] == "32 → 256"
    assert float(ours["speed-up"]) == pytest.approx(100 / 60, rel=0.1)
    assert float(ours["speed-up, 95 % low"]) < float(ours["speed-up"]) < float(ours["speed-up, 95 % high"])
    assert float(ours["F1 micro, 95 % low"]) < float(ours["F1 micro"])


def test_faults_and_lost_work_are_told(report):
    faults = [row for row in table(report, "faults") if row["study"] == "switch"]

    assert [row["what"] for row in faults] == ["interrupted", "diverged", "crashed", "crashed", "malformed"]
    assert "the node went away" in faults[0]["reason"]
    assert "ClassScores" in faults[-1]["reason"]
    [cost] = [row for row in table(report, "cost") if row["study"] == "switch"]
    # 20 s of the interrupted attempt and twice 15 s of crashes, on two nodes.
    assert float(cost["lost node-hours"]) == pytest.approx(50 * 2 / 3600)
    assert cost["trials retried"] == "2"


def test_the_notices_name_what_is_unfinished_or_malformed(report):
    notices = " ".join(report.notices)

    assert "switch: 1 of 28 trials not finished" in notices
    assert "the rows of 1 trial are malformed" in notices


def test_test_scores_are_shown_where_they_are_stored(report):
    rows = table(report, "test-split")

    assert {row["study"] for row in rows} == {"switch", "constant"}
    assert {row["seeds"] for row in rows} == {"2"}


def test_epochs_count_from_1_and_the_switch_lies_between_two(report):
    [chart] = [figure for figure in report.figures if figure.key == "time-per-epoch"]
    rows = [row for layer in chart.spec["layer"] for row in layer["data"]["values"]]

    assert min(row["epoch"] for row in rows if "line" in row) == 1
    assert {row["epoch"] for row in rows if row.get("text") == "32 → 256"} == {2.5}
    assert "from epoch 3" in chart.caption


def test_the_epochs_of_trials_under_way_are_drawn_already():
    made = arm("running", [running(0, [0.2, 0.4]), running(1, [0.4])])

    chart = score_per_epoch([made], "f1_micro", "F1 micro")

    rows = chart.spec["layer"][0]["data"]["values"]
    assert [(row["epoch"], row["trials"]) for row in rows] == [(1, 2), (2, 1)]
    assert rows[0]["low"] < 0.3 < rows[0]["high"]


def test_every_figure_is_an_svg_with_colours_and_every_table_csv_and_latex(report, tmp_path):
    count = page.export(report, tmp_path / "out")

    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(files) == count
    assert files == {f"{f.key}.svg" for f in report.figures} | {
        f"{t.key}.{suffix}" for t in report.tables for suffix in ("csv", "tex")
    }
    assert "," in (tmp_path / "out" / "table-1.csv").read_text()
    for path in (tmp_path / "out").glob("*.svg"):
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "var(--" not in text


def test_a_study_of_any_name_is_exported_into_the_folder(tmp_path):
    named = replace(arm("a", [completed(0, 0.5), completed(1, 0.6)]), name="../b/c")

    page.export(make_report([named], NOW), tmp_path / "out")

    assert (tmp_path / "out" / "parallel-.._b_c.svg").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_numbers_come_from_is_told_or_said_to_be_unknown(tmp_path):
    opening = Opening("2026-01-01T00:00:00+00:00", "c0ffee" * 6, True, {"optuna": "5.0"}, {"labels.csv": "ab" * 32})
    store(tmp_path, "new", [completed(0, 0.5)], config(SWITCH), **{schema.STUDY_OPENINGS: [to_plain(opening)]})
    store(tmp_path, "old", [completed(0, 0.5)], config(CONSTANT))

    report = make_report(load_arms(["new", "old"], None, tmp_path / "runs"), NOW)

    rows = {row[""]: row for row in table(report, "provenance")}
    assert rows["commit"]["new"] == "c0ffeec0ffee, with changes that are not committed"
    assert rows["commit"]["old"] == "unknown"
    assert rows["driver"]["new"] == "optuna 5.0"
    assert rows["data (SHA-256)"]["new"] == "labels.csv abababababababab"
    assert rows["data (SHA-256)"]["old"] == "unknown"
    assert rows["ranks"]["old"] == "tensorflow 2.20.0"


@pytest.mark.parametrize("trials", [[], [running(0)], [completed(0, 0.5)]])
def test_a_study_with_hardly_a_trial_has_a_page(trials):
    text = page.page(make_report([arm("a", trials)], NOW))

    assert "<h1>a</h1>" in text


def test_numbers_that_are_not_finite_do_not_keep_the_page_from_being_drawn():
    nan, inf = float("nan"), float("inf")
    curves = {"epochs:f1_micro": [nan, 0.1, inf, 0.2], "epochs:global_batch_size": [nan, 32.0, 256.0, 256.0]}
    scores = completed(1, 0.5).user_attrs["classes"] | {"f1": [nan, 0.5, 0.5]}

    trials = [completed(0, 0.5, stored=curves), completed(1, 0.6, stored={"classes": scores}), completed(2, 0.4)]

    text = page.page(make_report([arm("a", trials)], NOW))
    assert json.loads(parsed(text).scripts[0])["f1-micro-per-epoch"]


def test_arms_of_other_spaces_stand_side_by_side_without_pairs():
    other = {"study": {"objective": "f1_macro"}}

    report = make_report(
        [arm("constant", [completed(0, 0.5)], CONSTANT), arm("switch", [completed(0, 0.6)], **other)], NOW
    )

    assert not [table for table in report.tables if table.key.startswith("paired")]
    assert "without paired statistics: study.objective is" in " ".join(report.notices)
