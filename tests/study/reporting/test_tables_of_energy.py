"""What trials have consumed, in the report and in the comparison."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from study.reporting.content import make_report
from study.reporting.side_by_side import by_study
from study.reporting.tables_of_energy import energy, energy_by_phase
from tests.study.reporting.made_studies import arm, completed, diverged


def measured(number: int, small_kj: float, large_kj: float, source: str = "nvml+rapl", **more) -> dict:
    joules = {"32": 1000 * small_kj, "256": 1000 * large_kj}
    stored = {"energy_j": sum(joules.values()), "energy_source": source, "energy_j_by_batch_size": joules, **more}
    # Two epochs of each size.
    return completed(number, 0.5, stored=stored)


ARM = arm(
    "switch",
    [
        measured(0, 1000.0, 200.0, energy_repeated_j=360_000.0, kg_co2e=0.5),
        measured(1, 2000.0, 400.0, kg_co2e=0.25),
        completed(2, 0.5, stored={"communicator": {"energy_missing": "rapl: it is root's (on node2)"}}),
    ],
)
UNMEASURED = arm("constant", [completed(0, 0.5), diverged(1)])


def test_the_energy_of_a_study_says_what_was_measured_and_what_was_not():
    table = energy([ARM, UNMEASURED])

    assert table.rows == (
        (
            "switch",
            "2 of 3",
            "nvml+rapl (rapl: of whole nodes)",
            pytest.approx(1.0),
            pytest.approx(0.1),
            pytest.approx(0.75),
            "rapl: it is root's (on node2)",
        ),
        ("constant", "0 of 2", None, None, None, None, ""),
    )


def test_a_phase_has_its_joules_by_epoch_and_by_trial():
    table = energy_by_phase([ARM, UNMEASURED])

    assert table.rows == (
        ("switch", 32, "nvml+rapl", 2, pytest.approx(750.0), pytest.approx(1500.0)),
        ("switch", 256, "nvml+rapl", 2, pytest.approx(150.0), pytest.approx(300.0)),
    )


def test_trials_that_other_counters_measured_are_not_averaged_together():
    both = arm("switch", [measured(0, 1000.0, 200.0), measured(1, 1.0, 2.0, source="rapl")])

    assert [row[1:4] for row in energy_by_phase([both]).rows] == [
        (32, "nvml+rapl", 1),
        (256, "nvml+rapl", 1),
        (32, "rapl", 1),
        (256, "rapl", 1),
    ]


def test_where_nothing_was_measured_there_is_no_table_and_no_line():
    assert energy([UNMEASURED]) is None
    assert energy_by_phase([UNMEASURED]) is None
    assert "energy" not in [row[0] for row in by_study([UNMEASURED], []).rows]


def test_report_and_comparison_show_them():
    keys = [table.key for table in make_report([ARM, UNMEASURED], datetime(2026, 11, 27, tzinfo=UTC)).tables]

    assert {"energy", "energy-by-phase"} <= set(keys)
    [line] = [row for row in by_study([ARM, UNMEASURED], []).rows if row[0] == "energy"]
    assert line[1].startswith("1 kWh in 2 of 3 trials, by nvml+rapl")


def test_a_trial_whose_joules_are_no_number_is_malformed_and_the_others_are_not():
    trials = arm("switch", [measured(0, float("nan"), 1.0), measured(1, 1.0, 1.0)]).trials

    assert [bool(trial.problem) for trial in trials] == [True, False]
