"""The search space: what a config may write and what Optuna makes of it."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from study.search_space import SearchSpace

SPACE = {
    "model": {
        "width": {"type": "int", "low": 4, "high": 64, "log": True},
        "normalisation": {"type": "categorical", "choices": ["batch", "none"]},
    },
    "optimizer": {
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
        "momentum": {"type": "float", "low": 0.0, "high": 0.9},
        "nesterov": {"type": "categorical", "choices": [False, True]},
    },
    "batch_policy": {"switch_epoch": {"type": "int", "low": 0, "high": 20, "step": 5}},
}


def sample_one() -> tuple[optuna.Trial, dict]:
    trial = optuna.create_study().ask()
    return trial, SearchSpace.model_validate(SPACE).sample(trial)


def test_every_parameter_is_sampled_from_the_distribution_that_the_config_writes():
    trial, _ = sample_one()

    assert trial.distributions == {
        "width": IntDistribution(4, 64, log=True),
        "normalisation": CategoricalDistribution(("batch", "none")),
        "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
        "momentum": FloatDistribution(0.0, 0.9),
        "nesterov": CategoricalDistribution((False, True)),
        "switch_epoch": IntDistribution(0, 20, step=5),
    }


def test_a_sampled_value_keeps_its_type():
    _, sampled = sample_one()

    assert {name: type(value) for name, value in sampled.items()} == {
        "width": int,
        "normalisation": str,
        "learning_rate": float,
        "momentum": float,
        "nesterov": bool,
        "switch_epoch": int,
    }


def test_a_trial_that_is_sampled_again_keeps_the_values_that_it_has():
    trial, sampled = sample_one()

    assert SearchSpace.model_validate(SPACE).sample(trial) == sampled


def test_each_component_gets_its_own_parameters():
    _, sampled = sample_one()

    space = SearchSpace.model_validate(SPACE)

    assert set(space.options_for("model", sampled)) == {"width", "normalisation"}
    assert set(space.options_for("optimizer", sampled)) == {"learning_rate", "momentum", "nesterov"}
    assert set(space.options_for("batch_policy", sampled)) == {"switch_epoch"}
    assert space.options_for("dataset", sampled) == {}


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ({"type": "float", "low": 2.0, "high": 1.0}, "low=2.0 is above high=1.0"),
        ({"type": "int", "low": 2, "high": 1}, "low=2 is above high=1"),
        ({"type": "float", "low": 0.0, "high": 1.0, "log": True}, "a logarithmic range starts above 0"),
        ({"type": "int", "low": 0, "high": 8, "log": True}, "a logarithmic range starts above 0"),
        ({"type": "int", "low": 1, "high": 8, "log": True, "step": 2}, "a logarithmic range has no step"),
        ({"type": "int", "low": 1, "high": 8, "step": 0}, "greater than or equal to 1"),
        ({"type": "float", "low": 0.0, "high": float("inf")}, "finite"),
        ({"type": "float", "low": float("nan"), "high": 1.0}, "finite"),
        ({"type": "categorical", "choices": []}, "at least 1 item"),
        ({"type": "normal", "low": 0.0, "high": 1.0}, "'float', 'int', 'categorical'"),
    ],
)
def test_a_range_that_holds_nothing_is_refused(parameter, reason):
    with pytest.raises(ValidationError, match=reason):
        SearchSpace.model_validate({"optimizer": {"learning_rate": parameter}})


def test_an_empty_search_space_is_refused():
    with pytest.raises(ValidationError, match="samples at least one parameter"):
        SearchSpace.model_validate({})


def test_one_name_for_parameters_of_two_components_is_refused():
    decay = {"type": "float", "low": 0.0, "high": 1.0}

    with pytest.raises(ValidationError, match="decay is sampled for two components"):
        SearchSpace.model_validate({"model": {"decay": decay}, "optimizer": {"decay": decay}})
