"""The loop with a budget: what it starts, when it ends, and how it goes on with a larger one."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from storage.database import schema
from storage.protocol.workload import Workload
from study.budget import BudgetError
from study.forecast.measurements import Conditions, MeasuredEpoch, MeasuredStart, Measurements
from study.forecast.outlook import Outlook
from tests.study.pruned_study import DriverKilledError, PrunedStudy

# An attempt is booked with 36 s, 0.01 node-hours: a start of 6 s and two epochs of 15 s.
EPOCHS = 2


def new_study(folder: Path, *overrides: str, epochs: int = EPOCHS) -> PrunedStudy:
    return PrunedStudy(folder, lambda trial, epoch: 0.5, ("study.trials=6", *overrides), epochs)


def with_forecast(study: PrunedStudy, measured_epochs: int = 4) -> PrunedStudy:
    """The same study, whose epochs of 15 s and starts of 6 s are known from an earlier one."""
    conditions = Conditions.of(study.plan, cores=2)
    place = conditions.placement(study.plan.layout.world_size, 1)
    # 96 samples are six updates of 16.
    epochs = (MeasuredEpoch(place, 16, 16.0, 15.0),) * measured_epochs
    measured = Measurements(epochs, (MeasuredStart(place, 6.0),))
    study.outlook = Outlook(study.plan, conditions, [Workload(96, [16], [16] * EPOCHS)], measured)
    return study


def with_budget(study: PrunedStudy, *overrides: str) -> PrunedStudy:
    """The same study, its files and database, as another command has it."""
    other = new_study(study.folder, *overrides, epochs=study.epochs)
    other.storage, other.ranks, other.clock = study.storage, study.ranks, study.clock
    return other


def test_a_study_ends_before_the_trial_that_would_cost_more_than_the_rest(tmp_path):
    study = new_study(tmp_path, "budget.node_hours=0.035")

    study.drive()

    # Three of six; the fourth would have made it 0.04.
    assert study.states == "CCC"
    assert study.view.said[-1].endswith("A larger budget goes on with it.")
    assert "0.03 of 0.035 node-hours" in study.view.said[-1]


def test_a_larger_budget_goes_on(tmp_path):
    study = new_study(tmp_path, "budget.node_hours=0.035")
    study.drive()

    more = with_budget(study, "budget.node_hours=1")
    more.drive()

    assert more.states == "C" * 6
    assert more.loop.describe_spent().startswith("0.06 of 1 node-hours")


def test_a_budget_that_is_used_up_already_is_refused_before_anything_is_started(tmp_path):
    study = new_study(tmp_path, "budget.node_hours=0.035")
    study.drive()

    less = with_budget(study, "budget.node_hours=0.02")
    with pytest.raises(BudgetError, match=r"budget.node_hours=0.02 is used up: 0.03 node-hours are spent. Raise it"):
        less.drive()

    assert less.pool.started == []


def test_a_finished_study_is_not_refused_for_its_budget(tmp_path):
    study = new_study(tmp_path)
    study.drive()

    with_budget(study, "budget.node_hours=0.02").drive()

    assert study.states == "C" * 6


def test_lost_attempts_are_charged(tmp_path):
    study = new_study(tmp_path, "study.trials=2", "budget.node_hours=1")
    study.storage.dies_at_attribute = "spec_sha256"
    with pytest.raises(DriverKilledError):
        study.drive()
    study.drive()

    assert study.loop.describe_spent().startswith("0.02 of 1 node-hours")


def test_where_a_batch_system_gives_allocations_these_are_charged_and_not_attempts(tmp_path):
    study = new_study(tmp_path, "budget.node_hours=10")
    study.held = {"17": 3600.0}
    study.drive()
    study.held = {"18": 1800.0}

    with_budget_of_allocations = with_budget(study, "budget.node_hours=10", "study.trials=7")
    with_budget_of_allocations.held = {"17": 7200.0, "18": 1800.0}
    with_budget_of_allocations.drive()

    # Job 17 went on for a while after its driver's last word.
    assert with_budget_of_allocations.loop.describe_spent().startswith("2.5 of 10 node-hours")


def test_a_wall_budget_counts_all_drivers(tmp_path):
    study = new_study(tmp_path, "budget.wall=1h")
    study.drive()
    [stored] = study.storage.get_all_studies()
    first_s = schema.read_spent(stored.user_attrs).wall_s
    assert first_s > 0

    more = with_budget(study, "study.trials=8", "budget.wall=1h")
    more.drive()

    [stored] = study.storage.get_all_studies()
    assert schema.read_spent(stored.user_attrs).wall_s > first_s


def test_a_budget_that_runs_out_has_the_trials_under_way_pause(tmp_path):
    study = new_study(tmp_path, "budget.wall=1s", epochs=20)

    study.drive()

    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    assert any("budget.wall='1s' is used up" in said and "A larger budget goes on" in said for said in study.view.said)

    more = with_budget(study, "budget.wall=1h")
    more.drive()
    assert more.states == "C" * 6


def test_trials_that_are_held_stay_so_at_the_end_of_a_budget_and_are_promoted_with_a_larger_one(tmp_path):
    asha = ("pruner.name=asha", "pruner.rungs=[1]", "pruner.factor=3", "pruner.promotes=true")
    study = new_study(tmp_path, *asha, "budget.node_hours=0.025")
    study.drive()
    assert set(study.states) == {"R"}

    more = with_budget(study, *asha, "budget.node_hours=1")
    more.drive()

    assert sorted(more.states) == sorted("CCPPPP")


def test_a_search_that_finds_nothing_better_begins_no_further_trial_and_goes_on_with_more_patience(tmp_path):
    study = new_study(tmp_path, "study.trials=12", "budget.stagnant_trials=3")

    study.drive()

    # The first one is better than none; three more are as good.
    assert study.states == "C" * 4
    said = [text for text in study.view.said if "no further trial" in text]
    assert said == [
        "note: the last 3 completed trials have not raised the best score, 0.5000: no further trial begins. "
        "A larger budget.stagnant_trials goes on."
    ]
    with_budget(study, "study.trials=12", "budget.stagnant_trials=5").drive()
    assert study.states == "C" * 6


def test_a_search_that_ends_early_has_all_repeats_of_its_last_configuration(tmp_path):
    study = new_study(tmp_path, "study.trials=12", "study.repeats=3", "budget.stagnant_trials=3")

    study.drive()

    assert study.states == "C" * 6


def test_a_forecast_from_an_earlier_study_keeps_a_budget_from_a_first_trial_that_it_cannot_pay(tmp_path):
    unforeseen = new_study(tmp_path / "unforeseen", "budget.node_hours=0.009")
    unforeseen.drive()
    foreseen = with_forecast(new_study(tmp_path / "foreseen", "budget.node_hours=0.009"))
    foreseen.drive()
    enough = with_forecast(new_study(tmp_path / "enough", "budget.node_hours=0.011"))
    enough.drive()

    assert (unforeseen.states, foreseen.states, enough.states) == ("C", "", "C")
    assert "the rest of the budget brings no further trial to a result" in foreseen.view.said[-1]


def test_what_is_left_is_told_beside_what_is_spent_and_shrinks_with_each_trial(tmp_path):
    study = with_forecast(new_study(tmp_path))

    study.drive()

    told = [words.partition("; ")[2] for words in study.view.told_of_spent]
    # Trials of 36 s, 0.01 node-hours.
    assert told[0] == "6 left: 0.06 to 0.06 node-hours, 3.6 min to 3.6 min"
    assert [words[0] for words in dict.fromkeys(told) if words] == ["6", "5", "4", "3", "2", "1"]
