"""What every sampler that a config may name has to do."""

from __future__ import annotations

import importlib.util

import optuna
import pytest

from study.samplers import SAMPLERS, SamplerError, build_sampler
from study.search_space import SearchSpace

SPACE = SearchSpace.model_validate(
    {
        "model": {"width": {"type": "int", "low": 4, "high": 64}},
        "optimizer": {
            "learning_rate": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9},
            "nesterov": {"type": "categorical", "choices": [False, True]},
        },
    }
)
TRIALS_PER_RUN = 12
"""More than a sampler's own random start-up trials, 10 at most."""
NEEDS = {"gp": "torch"}


def is_usable(sampler_name: str) -> bool:
    """`gp` joins in where somebody has installed PyTorch; without it, the test at the end holds its error."""
    package = NEEDS.get(sampler_name)
    return package is None or importlib.util.find_spec(package) is not None


@pytest.fixture(params=filter(is_usable, SAMPLERS))
def sampler_name(request) -> str:
    return request.param


def run_driver(storage: optuna.storages.BaseStorage, sampler_name: str, trials: int = TRIALS_PER_RUN) -> list[dict]:
    """The configurations of one driver's run, with a sampler of its own as each driver has it."""
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    study.sampler = build_sampler(sampler_name, seed=7, finished_trials=len(study.trials))
    configurations = []
    for _ in range(trials):
        trial = study.ask()
        configuration = SPACE.sample(trial)
        configurations.append(configuration)
        # Some diverge, as in real studies.
        study.tell(trial, 0.0 if configuration["learning_rate"] > 0.5 else 1 - configuration["learning_rate"])
    return configurations


def test_samples_lie_within_the_search_space(sampler_name):
    for sampled in run_driver(optuna.storages.InMemoryStorage(), sampler_name):
        assert 4 <= sampled["width"] <= 64
        assert 1e-3 <= sampled["learning_rate"] <= 1.0
        assert 0.0 <= sampled["momentum"] <= 0.9
        assert sampled["nesterov"] in (False, True)


def test_a_resumed_study_does_not_search_its_first_configurations_again(sampler_name):
    storage = optuna.storages.InMemoryStorage()
    first = run_driver(storage, sampler_name)

    second = run_driver(storage, sampler_name)
    third = run_driver(storage, sampler_name, trials=2)

    configurations = [tuple(c.values()) for c in (*first, *second, *third)]
    assert len(set(configurations)) == len(configurations)


def test_the_same_seed_gives_the_same_study(sampler_name):
    runs = [run_driver(optuna.storages.InMemoryStorage(), sampler_name) for _ in range(2)]

    assert runs[0] == runs[1]


def test_configurations_that_are_asked_for_at_once_differ(sampler_name):
    study = optuna.create_study(sampler=build_sampler(sampler_name, seed=7, finished_trials=0), direction="maximize")

    at_once = [tuple(SPACE.sample(study.ask()).values()) for _ in range(4)]

    assert len(set(at_once)) == 4


def test_a_trial_that_an_earlier_driver_left_behind_keeps_its_configuration(sampler_name):
    storage = optuna.storages.InMemoryStorage()
    run_driver(storage, sampler_name)
    study = optuna.load_study(storage=storage, study_name="s", sampler=build_sampler(sampler_name, 7, TRIALS_PER_RUN))
    before = SPACE.sample(study.ask())

    next_sampler = build_sampler(sampler_name, 7, TRIALS_PER_RUN + 1)
    resumed = optuna.load_study(storage=storage, study_name="s", sampler=next_sampler)
    adopted = optuna.trial.Trial(resumed, resumed.trials[-1]._trial_id)

    assert SPACE.sample(adopted) == before


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_the_sampler_that_needs_pytorch_says_so_and_names_the_others():
    with pytest.raises(
        SamplerError, match=r"'gp' needs PyTorch.*uv pip install torch.*random, tpe, cmaes, nsgaii, qmc"
    ):
        build_sampler("gp", seed=0, finished_trials=0)
