"""What is said of a study before it runs, by the times of trials that are known."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.database.endpoint import StorageError
from storage.protocol.workload import Workload
from study.forecast.measurements import (
    Conditions,
    ForecastError,
    Measurements,
    measured_earlier,
    measured_so_far,
)
from study.forecast.outlook import Outlook
from tests.study.forecast.measured_trials import (
    CONSTANT,
    LARGE,
    SMALL,
    START_S,
    SWITCHED,
    TRAIN,
    as_trial,
    epoch_s,
    measured,
    paper_plan,
)
from tests.study.reporting.made_studies import store

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
TRIAL_S = 20 * epoch_s(SMALL) + 80 * epoch_s(LARGE) + START_S
BOTH = [SMALL, LARGE] * 3


@pytest.fixture(autouse=True)
def database_of_the_study_alone(monkeypatch):
    monkeypatch.delenv("SWITCHYARD_STORAGE", raising=False)


def outlook(folder: Path, *records, workloads=(SWITCHED,), overrides=()) -> Outlook:
    plan = paper_plan(folder, *overrides)
    conditions = Conditions.of(plan, cores=2)
    return Outlook(plan, conditions, workloads, sum(map(conditions.measured, records), Measurements()))


def stored(folder: Path, name: str, *records, overrides=()) -> None:
    store(folder, name, [as_trial(record) for record in records], paper_plan(folder, *overrides).identity())


def test_a_study_that_was_measured_takes_what_its_trials_took(tmp_path):
    study = outlook(tmp_path, measured(BOTH)).study(24)

    assert study.trial_s.expected == pytest.approx(TRIAL_S, rel=1e-3)
    assert study.node_hours.expected == pytest.approx(24 * 4 * TRIAL_S / 3600, rel=1e-3)
    assert study.wall_s.expected == pytest.approx(4 * TRIAL_S, rel=1e-3)


def test_one_trial_alone_takes_as_long_as_a_trial_however_many_could_train_at_once(tmp_path):
    one = outlook(tmp_path, measured(BOTH, 0.02))
    study = one.study(1)

    assert study.wall_s == study.trial_s
    assert one.describe(finished=23, now=NOON).startswith("1 trial left, ")


@given(st.integers(0, 2**31), st.floats(0.001, 0.1))
@settings(deadline=None, max_examples=50)
def test_noise_moves_the_forecast_and_widens_its_interval(tmp_path_factory, seed, noise):
    folder = tmp_path_factory.getbasetemp()
    loud = outlook(folder, *(measured(BOTH, noise, seed + number) for number in range(3))).study(24).node_hours

    assert loud.low < loud.expected < loud.high
    assert loud.expected == pytest.approx(24 * 4 * TRIAL_S / 3600, rel=5 * noise)


def test_the_dry_run_says_node_hours_when_it_is_done_and_what_the_constant_arm_would_take(tmp_path):
    said = outlook(tmp_path, measured(BOTH, 0.02)).describe(finished=0, now=NOON)

    first, second, third = said.splitlines()
    low, high = (float(number) for number in re.search(r"GPUs at once: (\d+) to (\d+) node-hours", first).groups())
    assert first.startswith("24 trials, 96 GPUs at once: ")
    assert low <= 24 * 4 * TRIAL_S / 3600 <= high
    assert re.search(
        r"done between 2026-12-\d\d \d\d:\d\d UTC and 2026-12-\d\d \d\d:\d\d UTC if started now and no", first
    )
    assert re.fullmatch(r"with the smallest batch to the end: [\d,]+ to [\d,]+ node-hours", second)
    assert third == "from 6 epochs of 1 trial at batch 512, 16384 on 16 ranks"


def test_a_constant_study_has_no_other_arm_to_be_compared_with(tmp_path):
    said = outlook(tmp_path, measured([SMALL] * 3), workloads=(CONSTANT,)).describe(0, NOON)

    assert "smallest batch" not in said


def test_without_measurements_it_says_that_there_is_no_forecast_and_what_to_run(tmp_path):
    said = outlook(tmp_path).describe(0, NOON)

    assert said.startswith("none: no epoch of such trials of 16 ranks at site 'jureca-dc'. Train one trial there:")
    assert "--trials 1 --name PROBE" in said
    assert not re.search(r"\d+ (to \d+ )?node-hours", said)


@pytest.mark.parametrize(
    "changes",
    [
        {"data_plane": "gloo"},
        {"communicator": {"world_size": 16, "threads_per_rank": 8}},
        {"communicator": {}},
        {"curves": {}},
    ],
)
def test_trials_that_ran_otherwise_say_nothing(tmp_path, changes):
    assert outlook(tmp_path, measured(BOTH, **changes)).study(24) is None


def test_one_rank_says_nothing_of_sixteen(tmp_path):
    alone = measured(BOTH, communicator={"world_size": 1, "threads_per_rank": 32}, hosts=["jrc1"])

    assert outlook(tmp_path, alone).study(24) is None


def test_a_batch_size_that_was_not_measured_is_named_and_widens_the_forecast(tmp_path):
    known, unknown = outlook(tmp_path, measured(BOTH)), outlook(tmp_path, measured([SMALL] * 6))

    assert "batch 16384 was not measured" in unknown.describe(0, NOON)
    hours = unknown.study(24).node_hours
    assert hours.low < 0.8 * known.study(24).node_hours.expected
    assert hours.low <= known.study(24).node_hours.expected <= hours.high


def test_a_batch_policy_without_a_schedule_is_forecast_from_its_smallest_to_its_largest_batch(tmp_path):
    adaptive = outlook(tmp_path, measured(BOTH), workloads=(Workload(TRAIN, [SMALL, LARGE], []),)).study(24)

    assert adaptive.trial_s.low == pytest.approx(100 * epoch_s(LARGE) + START_S, rel=0.01)
    assert adaptive.trial_s.high == pytest.approx(100 * epoch_s(SMALL) + START_S, rel=0.01)


def test_each_trial_that_ends_corrects_the_forecast(tmp_path):
    ahead = outlook(tmp_path, measured(BOTH, 0.01))
    before = ahead.study(1).trial_s

    twice_as_slow = measured(BOTH)
    curves = {name: [*values] for name, values in twice_as_slow.curves.items()}
    curves["samples_per_s"] = [rate / 2 for rate in curves["samples_per_s"]]
    curves["wall_s"] = [2 * wall_s for wall_s in curves["wall_s"]]
    for _ in range(9):
        ahead.learn(measured(BOTH, curves=curves))

    assert ahead.study(1).trial_s.expected > 1.5 * before.expected
    assert ahead.left_in_words(3).startswith("3 left: ")
    assert ahead.left_in_words(0) == ""


def test_what_a_trial_still_needs_follows_its_schedule(tmp_path):
    ahead = outlook(tmp_path, measured(BOTH))

    assert ahead.needed_s(done=20, epochs=80, has_started=True) == pytest.approx(80 * epoch_s(LARGE), rel=1e-3)
    assert ahead.needed_s(done=0, epochs=20, has_started=False) == pytest.approx(
        20 * epoch_s(SMALL) + START_S, rel=1e-3
    )
    assert outlook(tmp_path).needed_s(0, 20, has_started=False) is None


def test_a_budget_that_is_too_small_is_said(tmp_path):
    said = outlook(tmp_path, measured(BOTH), overrides=("budget.node_hours=10",)).describe(0, NOON)

    assert "budget.node_hours=10 ends it earlier" in said


def test_earlier_studies_and_the_study_s_own_trials_are_read_from_their_databases(tmp_path):
    stored(tmp_path, "probe", measured(BOTH))
    stored(tmp_path, "paper", measured([SMALL]), measured([LARGE]))
    plan = paper_plan(tmp_path)

    conditions = Conditions.of(plan, cores=2)
    own, finished = measured_so_far(plan, conditions)
    earlier = measured_earlier(plan, conditions, ["probe"])

    assert (len(own.epochs), len(own.starts), finished) == (2, 2, 2)
    assert (len(earlier.epochs), len(earlier.starts)) == (6, 1)


def test_a_study_that_has_not_begun_has_measured_nothing_and_gets_no_database(tmp_path):
    plan = paper_plan(tmp_path)

    assert measured_so_far(plan, Conditions.of(plan, cores=2)) == (Measurements(), 0)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.name=small_resnet",), "--forecast-from probe: it was trained with another model; name another study"),
        (("training.precision=bfloat16", "training.jit=true"), "another training.precision, training.jit"),
        (("dataset.node_cache=/scratch",), "another dataset"),
    ],
)
def test_an_earlier_study_of_something_else_is_refused(tmp_path, overrides, words):
    stored(tmp_path, "probe", measured(BOTH), overrides=overrides)
    plan = paper_plan(tmp_path)

    with pytest.raises(ForecastError) as refused:
        measured_earlier(plan, Conditions.of(plan, cores=2), ["probe"])

    assert words in str(refused.value)


def test_an_earlier_study_that_ran_otherwise_is_refused_with_what_it_lacks(tmp_path):
    stored(tmp_path, "probe", measured(BOTH, data_plane="gloo"))
    plan = paper_plan(tmp_path)

    with pytest.raises(ForecastError, match="no finished trial of it trained with 32 threads a rank over nccl"):
        measured_earlier(plan, Conditions.of(plan, cores=2), ["probe"])


@pytest.mark.parametrize("source", ["absent", "probe@postgresql://me:secret@host/database", "probe@nowhere"])
def test_what_is_no_study_is_refused_without_the_words_that_may_be_secret(tmp_path, source):
    plan = paper_plan(tmp_path)

    with pytest.raises(StorageError) as refused:
        measured_earlier(plan, Conditions.of(plan, cores=2), [source])

    assert "secret" not in str(refused.value)
