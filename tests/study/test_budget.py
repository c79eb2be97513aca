"""What a budget allows, by the numbers alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.budget import Budget, BudgetSettings, Need, Spent, duration_s
from study.config import ConfigError, load_config
from tests.study.small_study import write_config

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def spent(node_hours: float = 0.0, wall_s: float = 0.0, unix_s: float = NOON.timestamp()) -> Spent:
    return Spent(node_hours, wall_s, unix_s)


def budget(**limits) -> Budget:
    return Budget(BudgetSettings(**limits))


def need(wall_s: float, nodes: int = 4) -> Need:
    return Need(wall_s, nodes)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("36h", 129600), ("90m", 5400), ("1d 12h", 129600), ("1d12h", 129600), ("1.5h", 5400), ("45s", 45)],
)
def test_a_time_is_written_with_its_units(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("budget.wall=36", "budget.wall"),
        ("budget.wall='36'", "write a time above 0 such as '36h'"),
        ("budget.wall=0h", "write a time above 0"),
        ("budget.wall=tomorrow", "write a time above 0"),
        ("budget.node_hours=0", "budget.node_hours"),
        ("budget.node_hours=inf", "budget.node_hours"),
        ("budget.node_hours=-2", "budget.node_hours"),
        ("budget.until=soon", "budget.until"),
        (
            "budget.nodehours=2",
            "budget.nodehours is an unknown key; valid keys are node_hours, wall, until, stagnant_trials, noise.",
        ),
        ("budget.stagnant_trials=0", "budget.stagnant_trials"),
        ("budget.noise=0.01", "noise says what counts for stagnant_trials, which is not set"),
        ("budget=3", "budget must be a table"),
    ],
)
def test_a_limit_that_is_none_is_refused(tmp_path, override, words):
    with pytest.raises(ConfigError) as refused:
        load_config(write_config(tmp_path), [override])
    assert words in str(refused.value)


def test_a_budget_is_not_part_of_what_a_study_is(tmp_path):
    path = write_config(tmp_path)

    assert load_config(path, ["budget.node_hours=2"]).identity() == load_config(path, []).identity()


def test_without_a_limit_nothing_is_ever_used_up():
    assert not budget().is_limited
    assert budget().used_up(spent(1e6, 1e9)) == ""
    assert budget().is_enough_for(need(1e9), [need(1e9)], spent(1e6, 1e9))


@pytest.mark.parametrize(
    ("limits", "before", "after", "words"),
    [
        ({"node_hours": 2.0}, spent(1.99), spent(2.0), "budget.node_hours=2 is used up: 2 node-hours are spent"),
        (
            {"wall": "1h"},
            spent(wall_s=3599),
            spent(wall_s=3600),
            "budget.wall='1h' is used up: drivers have run for 1.0 h",
        ),
        (
            {"until": NOON},
            spent(unix_s=NOON.timestamp() - 1),
            spent(),
            "budget.until=2026-12-01T12:00:00+00:00 is over",
        ),
    ],
)
def test_a_limit_that_is_reached_is_named_with_what_was_spent(limits, before, after, words):
    assert budget(**limits).used_up(before) == ""
    assert budget(**limits).used_up(after) == words


def test_a_trial_begins_only_if_the_rest_brings_it_and_those_under_way_to_a_result():
    two_hours = budget(node_hours=8.0)

    assert two_hours.is_enough_for(need(3600), [need(3600)], spent())
    assert not two_hours.is_enough_for(need(3601), [need(3600)], spent())
    assert not two_hours.is_enough_for(need(3600), [need(3600)], spent(node_hours=0.1))
    # The rest of one that was promoted, on twice the nodes, is half as long.
    assert two_hours.is_enough_for(need(1800, nodes=8), [need(3600)], spent())
    assert not two_hours.is_enough_for(need(1801, nodes=8), [need(3600)], spent())
    # Time passes for all trials at once.
    assert budget(wall="1h").is_enough_for(need(1800), [need(3600), need(3600)], spent(wall_s=1800))
    assert not budget(wall="1h").is_enough_for(need(1801), [], spent(wall_s=1800))
    assert not budget(until=NOON).is_enough_for(need(1), [], spent())


def test_what_is_spent_is_told_beside_what_may_be():
    limits = {"node_hours": 2.0, "wall": "36h", "until": NOON}

    assert budget(**limits).describe(spent(1.5, 7200)) == (
        "1.5 of 2 node-hours, 2.0 h of 36h, until 2026-12-01 12:00+00:00"
    )
    assert budget().describe(spent(0.25, 90)) == "0.25 node-hours, 1.5 min"


@given(st.floats(0.01, 10), st.lists(st.floats(1, 5000), max_size=5), st.floats(1, 5000), st.floats(0, 10))
def test_what_is_allowed_to_begin_never_costs_more_than_the_budget(node_hours, under_way_s, needed_s, already):
    limited = budget(node_hours=node_hours)

    if limited.is_enough_for(need(needed_s, 3), [need(wall_s, 3) for wall_s in under_way_s], spent(already)):
        assert already + 3 * (needed_s + sum(under_way_s)) / 3600 <= node_hours
