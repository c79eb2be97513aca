"""One study, decided: what it trains and what it sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.toml_tables import TablesError
from storage.protocol.variables import REQUIRES_ENERGY, TRIALS_ON_MACHINE
from study.seeds import derive_seed
from tests.study.fakes import new_plan

SAMPLED = {"learning_rate": 0.25}


def test_a_trial_is_told_what_to_train_with_a_seed_of_its_own(tmp_path):
    plan = new_plan(tmp_path)

    spec = plan.spec(4, SAMPLED, "u")

    assert (spec.trial_number, spec.world_size, spec.epochs, spec.study_uuid) == (4, 2, 2, "u")
    assert spec.seed == derive_seed(7, 4)
    assert spec.optimizer.options == SAMPLED


def test_a_relative_path_of_the_data_is_that_of_the_driver_because_jobs_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = new_plan(tmp_path, 'dataset={name="image_folder", path="my data"}')

    assert plan.spec(0, SAMPLED, "u").dataset.options["path"] == str(tmp_path / "my data")


def test_a_home_folder_is_the_drivers_user_s(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    plan = new_plan(tmp_path, 'dataset={name="image_folder", path="~/data"}')

    assert plan.spec(0, SAMPLED, "u").dataset.options["path"] == "/home/ada/data"


def test_the_folders_of_a_study_do_not_depend_on_where_one_looks_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = new_plan(tmp_path, "study.runs_dir='relative'")

    monkeypatch.chdir("/")
    assert plan.trial_path(7) == tmp_path / "relative" / "small" / "trials" / "0007"
    assert plan.request(7, 1, 60.0).trial_dir == plan.trial_path(7)


def test_a_folder_that_would_be_two_lines_of_a_job_script_is_refused_although_no_config_names_it(tmp_path, monkeypatch):
    (tmp_path / "two\nlines").mkdir()
    monkeypatch.chdir(tmp_path / "two\nlines")

    with pytest.raises(TablesError, match=r"two\\nlines.* contains the control character '\\n'; remove it"):
        new_plan(tmp_path, "study.runs_dir='relative'")


def test_a_request_says_how_much_time_is_left_and_not_until_when(tmp_path):
    request = new_plan(tmp_path).request(7, 2, 3600.0)

    assert (request.time_left_s, request.key) == (3600.0, "7/2")


def test_more_ranks_make_another_study(tmp_path):
    assert new_plan(tmp_path).identity()["world_size"] == 2


@pytest.mark.parametrize("name", ["trials=9", "crash_retries=3"])
def test_a_plan_is_never_changed(tmp_path, name):
    plan = new_plan(tmp_path)

    assert plan.identity() == new_plan(tmp_path, f"study.{name}").identity()
    with pytest.raises(AttributeError):
        plan.slots = 3
    assert Path(plan.folder).is_absolute()
    assert plan.folder.name == "small"


def test_the_ranks_know_that_the_study_goes_by_energy_and_who_else_heats_the_machine(tmp_path):
    alone = new_plan(tmp_path)
    several = new_plan(tmp_path, "study.constraint='energy_kwh <= 2'", at_once=2)

    assert {REQUIRES_ENERGY, TRIALS_ON_MACHINE}.isdisjoint(alone.request(0, 1, 60.0).environment)
    assert {REQUIRES_ENERGY: "1", TRIALS_ON_MACHINE: "2"}.items() <= several.request(0, 1, 60.0).environment.items()
    assert TRIALS_ON_MACHINE not in new_plan(tmp_path, "study.trials=1", at_once=2).rank_environment
