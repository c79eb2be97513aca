"""Random search by trial number: the seed and the number say it all."""

from __future__ import annotations

import random
import subprocess
import sys

import optuna
import pytest

from study.config import StudySettings
from study.samplers import RandomByTrialNumber, SamplerError, check_sampler, sampler_of
from study.search_space import SearchSpace
from study.seeds import derive_seed
from tests.architecture.sources import REPOSITORY

PAPER = {
    "learning_rate": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9},
    "nesterov": {"type": "categorical", "choices": [False, True]},
    "weight_decay": {"type": "float", "low": 5e-5, "high": 1e-1, "log": True},
}
SEED = 7


def space(parameters: dict = PAPER) -> SearchSpace:
    return SearchSpace.model_validate({"optimizer": parameters})


def sample(count: int, seed: int = SEED, parameters: dict = PAPER, storage: str | None = None) -> list[dict]:
    """The next `count` configurations of a study, by one sampler as one driver has it."""
    study = optuna.create_study(
        storage=storage, study_name="s", sampler=RandomByTrialNumber(seed), load_if_exists=storage is not None
    )
    configurations = []
    for _ in range(count):
        trial = study.ask()
        configurations.append(space(parameters).sample(trial))
        study.tell(trial, 0.5)
    return configurations


def test_a_resumed_study_goes_on_with_the_configurations_that_an_uninterrupted_one_has(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"

    resumed = [*sample(3, storage=url), *sample(2, storage=url), *sample(1, storage=url)]

    assert resumed == sample(6)


def test_two_studies_of_one_seed_search_the_same_configurations():
    assert sample(24) == sample(24)


def test_studies_of_different_seeds_search_different_configurations():
    assert sample(3, seed=1) != sample(3, seed=2)


def test_no_configuration_comes_twice():
    configurations = [tuple(c.values()) for c in sample(200)]

    assert len(set(configurations)) == 200


def test_the_configuration_of_a_number_does_not_depend_on_the_order_in_which_trials_are_sampled():
    study = optuna.create_study(sampler=RandomByTrialNumber(SEED))
    trials = [study.ask() for _ in range(6)]
    shuffled = random.Random(0).sample(trials, len(trials))

    by_number = {trial.number: space().sample(trial) for trial in shuffled}

    assert [by_number[number] for number in range(6)] == sample(6)


def test_the_configuration_does_not_depend_on_the_order_of_the_parameters():
    assert sample(6, parameters=dict(reversed(PAPER.items()))) == sample(6)


def test_a_further_parameter_leaves_the_others_as_they_are():
    more = {"decay": {"type": "int", "low": 1, "high": 100}, **PAPER}

    without = [{name: c[name] for name in PAPER} for c in sample(6, parameters=more)]

    assert without == sample(6)


def test_one_range_under_two_names_gives_two_values():
    unit = {"type": "float", "low": 0.0, "high": 1.0}

    [configuration] = sample(1, parameters={"a": unit, "b": unit})

    assert configuration["a"] != configuration["b"]


def test_another_process_samples_the_same():
    # Python's own hash() of a name would differ: it is salted for each process.
    program = "from tests.study.test_samplers import sample; print(sample(3))"

    other = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert other.stdout.strip() == str(sample(3))


def test_samples_fill_the_space():
    values = [c["momentum"] for c in sample(200)]

    assert min(values) < 0.1
    assert max(values) > 0.8
    assert 80 < sum(c["nesterov"] for c in sample(200)) < 120


def test_a_derived_seed_is_of_all_its_parts_and_fits_everywhere():
    seeds = {derive_seed(*parts) for parts in [(0, 0), (0, 1), (1, 0), (1, 1), (0, "a"), (0, "b"), (0, "a", 1)]}

    assert len(seeds) == 7
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_an_unknown_sampler_is_refused_and_those_that_exist_are_listed():
    with pytest.raises(SamplerError, match=r"study\.sampler='grid'.* random, tpe, gp, cmaes, nsgaii, qmc"):
        check_sampler(StudySettings(name="s", trials=1, sampler="grid"))


def test_a_sampler_whose_package_is_missing_is_refused_before_there_is_a_study(monkeypatch):
    # None in sys.modules makes the import fail, whether or not PyTorch is installed here.
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(SamplerError, match="'gp' needs PyTorch"):
        check_sampler(StudySettings(name="s", trials=1, sampler="gp"))


def sample_by(count: int, **settings: object) -> list[dict]:
    """The first configurations of a study with these settings, by a driver that is replaced after each trial."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    chosen = StudySettings.model_validate({"name": "s", "trials": count, "seed": SEED, **settings})
    configurations = []
    for number in range(count):
        study.sampler = sampler_of(chosen, space())
        trial = study.ask()
        configurations.append(space().sample(trial))
        study.tell(trial, 0.1 * number)
    return configurations


def test_each_configuration_of_a_random_search_is_repeated_as_it_would_have_come_alone():
    assert sample_by(9, repeats=3) == [configuration for configuration in sample(3) for _ in range(3)]


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "nsgaii"])
def test_each_configuration_of_another_sampler_is_repeated(sampler):
    configurations = sample_by(24, sampler=sampler, repeats=2)

    assert configurations[0::2] == configurations[1::2]
    assert len({tuple(configuration.values()) for configuration in configurations}) == 12


def test_given_configurations_come_in_turn():
    first, second = sample(2)

    assert sample_by(5, configurations=[first, second]) == [first, second, first, second, first]


@pytest.mark.parametrize("name", ["random", "tpe", "qmc", "nsgaii", "cmaes"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_enqueued_configurations_come_first_and_what_they_leave_open_is_sampled(name, repeats):
    enqueue = ({"learning_rate": 0.5, "nesterov": True}, {"momentum": 0.25})
    settings = StudySettings(name="s", trials=5, repeats=repeats, sampler=name, seed=SEED)
    configurations = []
    study = optuna.create_study()
    for _ in range(5 * repeats):
        # As a driver after another one has it.
        study.sampler = sampler_of(settings, space(), enqueue)
        trial = study.ask()
        configurations.append(space().sample(trial))
        study.tell(trial, 0.5)

    first, second = configurations[0], configurations[repeats]
    assert (first["learning_rate"], first["nesterov"]) == (0.5, True)
    assert 5e-5 <= first["weight_decay"] <= 1e-1
    assert second["momentum"] == 0.25
    assert 0.25 not in [configuration["momentum"] for configuration in configurations[2 * repeats :]]
    if repeats == 2:
        assert configurations[0] == configurations[1]
