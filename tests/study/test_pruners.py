"""What a config may say of a pruner, and what it means when it says little."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.config import ConfigError, StudyConfig, load_config
from study.opening import _differences
from study.pruners import PRUNERS
from tests.study.small_study import write_config


@pytest.fixture
def load(tmp_path: Path):
    path = write_config(tmp_path)
    return lambda *overrides: load_config(path, ["training.epochs=27", *overrides])


def refusal(load, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(*overrides)
    return str(refused.value)


@pytest.mark.parametrize("name", PRUNERS)
def test_a_name_is_enough(load, name):
    config = load(f"pruner.name={name}")

    assert config.pruner.resolved(27).name == name


@pytest.mark.parametrize("name", sorted(PRUNERS.keys() - {"none", "patient"}))
def test_a_name_is_enough_for_two_epochs(load, name):
    config = load(f"pruner.name={name}", "training.epochs=2")

    assert config.pruner.resolved(2).name == name


def test_a_study_that_names_no_pruner_trains_every_trial_to_its_end(load):
    assert load().pruner.name == "none"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pruner.name=halving"], "pruner.name='halving'; it must be one of none, median, percentile, hyperband, asha"),
        (["pruner.factor=3"], "pruner.name is missing; it must be one of none, median"),
        (["pruner=asha"], "pruner"),
        (
            ["pruner.name=median", "pruner.factor=3"],
            "pruner.factor is an unknown key; valid keys are grace_epochs, war",
        ),
        (["pruner.name=hyperband", "pruner.promotes=true"], "pruner.promotes is an unknown key"),
        (["pruner.name=none", "pruner.grace_epochs=1"], "pruner.grace_epochs is an unknown key; valid keys are name."),
        (["pruner.name=asha", "pruner.factor=1"], "pruner.factor: Input should be greater than or equal to 2 (got 1)"),
        (["pruner.name=asha", "pruner.rungs=[3, 27]"], "pruner.rungs=[3, 27] of training.epochs=27; they are numbers"),
        (["pruner.name=asha", "pruner.rungs=[3, 3]"], "from 1 to 26"),
        (["pruner.name=asha", "pruner.rungs=[0]"], "from 1 to 26"),
        (["pruner.name=asha", "pruner.rungs=[]"], "from 1 to 26"),
        (["pruner.name=asha", "pruner.rungs=[3]", "pruner.min_epochs=1"], "leave one of them out"),
        (["pruner.name=asha", "pruner.min_epochs=27"], "pruner.min_epochs=27 of training.epochs=27; take 1 to 26."),
        (["pruner.name=asha", "training.epochs=1"], "training.epochs=1 leaves no epoch after which"),
        (["pruner.name=asha", "pruner.grace_epochs=27"], "pruner.grace_epochs=27 of training.epochs=27"),
        (["pruner.name=hyperband", "pruner.brackets=4"], "pruner.brackets=4 with rungs at 1, 3, 9 epochs"),
        (["pruner.name=median", "pruner.warmup_epochs=27"], "pruner.warmup_epochs=27 of training.epochs=27"),
        (["pruner.name=median", "pruner.startup_trials=0"], "pruner.startup_trials"),
        (["pruner.name=percentile", "pruner.percentile=100"], "pruner.percentile"),
        (["pruner.name=patient", "pruner.patience=25"], "pruner.patience=25 of training.epochs=27"),
        (["pruner.name=patient", "training.epochs=3"], "take more epochs"),
        (["pruner.name=threshold", "pruner.lower=1.5"], "pruner.lower"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_and_what_may_be(load, overrides, words):
    assert words in refusal(load, *overrides)


def test_the_pruner_is_part_of_what_a_study_is(load):
    stored, now = load("pruner.name=asha").identity(), load("pruner.name=median").identity()

    assert "pruner.name is 'asha' in the database, 'median' now" in _differences(
        stored, now, StudyConfig.identity_defaults()
    )


def test_a_default_that_is_said_is_the_same_study(load):
    assert load("pruner.name=asha").identity() == load("pruner.name=asha", "pruner.rungs=[1, 3, 9]").identity()


def test_a_study_that_is_older_than_pruners_has_none(load):
    older = {key: value for key, value in load().identity().items() if key != "pruner"}

    assert _differences(older, load().identity(), StudyConfig.identity_defaults()) == []
    assert _differences(older, load("pruner.name=asha").identity(), StudyConfig.identity_defaults())


def test_a_trials_bracket_goes_by_its_number_and_the_seed(load):
    pruner = load("pruner.name=hyperband").pruner.resolved(27)

    brackets = [pruner.bracket_of(seed=7, trial_number=number) for number in range(200)]

    assert brackets == [pruner.bracket_of(7, number) for number in range(200)]
    counts = [brackets.count(bracket) for bracket in range(3)]
    assert counts[0] > counts[1] > counts[2] > 0
    assert [pruner.rungs_of(bracket) for bracket in range(3)] == [(1, 3, 9), (3, 9), (9,)]
