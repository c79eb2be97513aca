"""What every sampler that a config may name has to do."""

from __future__ import annotations

import importlib.util
import random

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from study.config import StudySettings
from study.repeatable import Repeatable
from study.samplers import BY_NUMBER, GO_ON_FROM_THE_DATABASE, SAMPLERS, SamplerError, build_sampler, check_sampler
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


REPEATABLE = [name for name in SAMPLERS if is_usable(name) and name not in GO_ON_FROM_THE_DATABASE]
"""Those that can be asked for a trial again."""


@pytest.fixture(params=filter(is_usable, SAMPLERS))
def sampler_name(request) -> str:
    return request.param


def sampler_named(sampler_name: str) -> Repeatable:
    """As a driver has it."""
    return build_sampler(StudySettings(name="s", trials=1, sampler=sampler_name, seed=7), SPACE)


def run_driver(storage: optuna.storages.BaseStorage, sampler_name: str, trials: int = TRIALS_PER_RUN) -> list[dict]:
    """The configurations of one driver's run, with a sampler of its own as each driver has it."""
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    study.sampler = sampler_named(sampler_name)
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


def run_in_parallel(study: optuna.Study, sampler_name: str, order: random.Random, trials: int) -> None:
    """Trials until there are so many, four under way at once, which end in any order: completed, pruned or failed.

    Half-way another driver takes over, with a sampler of its own.
    """
    count = 0
    while count < trials or under_way(study):
        if count < trials and len(under_way(study)) < 4:
            if count in (0, trials // 2):
                study.sampler = sampler_named(sampler_name)
            SPACE.sample(study.ask())
            count += 1
            continue
        trial = order.choice(under_way(study))
        state = order.choices([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL], weights=[0.8, 0.1, 0.1])[0]
        study._storage.set_trial_intermediate_value(trial._trial_id, 0, 0.1)
        study.tell(trial.number, score(trial.params) if state is TrialState.COMPLETE else None, state=state)


def under_way(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.RUNNING])


def score(parameters: dict) -> float:
    return 1 - abs(parameters["learning_rate"] - 0.03) - abs(parameters["momentum"] - 0.5)


@pytest.mark.parametrize("sampler_name", REPEATABLE)
def test_each_configuration_can_be_had_again_from_the_database_whatever_ended_first(sampler_name):
    study = optuna.create_study(direction="maximize")
    # More than a generation of NSGA-II, of 50 completed trials.
    run_in_parallel(study, sampler_name, random.Random(1), trials=90)
    sampler, trials = sampler_named(sampler_name), study.get_trials(deepcopy=False)

    again = {trial.number: sampler.ask_again(study, trial) for trial in random.Random(2).sample(trials, 90)}

    assert again == {trial.number: trial.params for trial in trials}


def test_studies_in_which_trials_end_in_one_order_are_one_study(sampler_name):
    studies = [optuna.create_study(direction="maximize") for _ in range(2)]
    for study in studies:
        run_in_parallel(study, sampler_name, random.Random(1), trials=30)

    assert [trial.params for trial in studies[0].trials] == [trial.params for trial in studies[1].trials]


@pytest.mark.parametrize("sampler_name", REPEATABLE)
def test_a_driver_that_dies_in_sampling_leaves_its_configuration_to_the_next_one(sampler_name):
    studies = [optuna.create_study(direction="maximize") for _ in range(2)]
    for study in studies:
        run_in_parallel(study, sampler_name, random.Random(1), trials=20)
        study.sampler = sampler_named(sampler_name)
        other = study.ask()
        SPACE.sample(other)
        half = study.ask()
        half.suggest_int("width", 4, 64)
        if study is studies[0]:
            # Between the death of the one driver and the first question of the next one.
            study.tell(other, 0.9)
        study.sampler = sampler_named(sampler_name)
        SPACE.sample(optuna.trial.Trial(study, half._trial_id))

    assert studies[0].trials[-1].params == studies[1].trials[-1].params


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("learning_name", [name for name in SAMPLERS if is_usable(name) and name not in BY_NUMBER])
def test_no_two_trials_under_way_have_one_configuration_unless_there_is_no_other(learning_name, seed):
    study = study_of_six_configurations(learning_name, seed)
    order = random.Random(seed)
    for _ in range(15):
        while len(under_way(study)) < 6:
            SIX.sample(study.ask())
        assert len({tuple(trial.params.values()) for trial in under_way(study)}) == 6
        for trial in order.sample(under_way(study), order.randint(1, 6)):
            study.tell(trial.number, trial.params["width"])

    while len(under_way(study)) < 6:
        SIX.sample(study.ask())
    one_more = SIX.sample(study.ask())

    assert one_more in [trial.params for trial in under_way(study)[:6]]


@pytest.mark.parametrize("name_by_number", BY_NUMBER)
def test_by_number_no_configuration_comes_again_before_all_have_come(name_by_number):
    study = study_of_six_configurations(name_by_number, seed=0)

    configurations = [SIX.sample(study.ask()) for _ in range(7)]

    assert len({tuple(configuration.values()) for configuration in configurations[:6]}) == 6
    assert configurations[6] in configurations[:6]


def test_by_number_a_small_space_comes_in_one_order_whatever_ends_first():
    configurations = []
    for seed in range(4):
        study, order = study_of_six_configurations("random", seed=7), random.Random(seed)
        for _ in range(12):
            SIX.sample(study.ask())
            while under_way(study) and order.random() < 0.6:
                study.tell(order.choice(under_way(study)).number, 0.5)
        configurations.append([trial.params for trial in study.trials])

    assert configurations[1:] == configurations[:-1]


SIX = SearchSpace.model_validate(
    {
        "model": {"width": {"type": "int", "low": 4, "high": 6}},
        "optimizer": {"nesterov": {"type": "categorical", "choices": [False, True]}},
    }
)


def study_of_six_configurations(sampler_name: str, seed: int) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.sampler = build_sampler(StudySettings(name="s", trials=1, sampler=sampler_name, seed=seed), SIX)
    return study


def test_configurations_that_are_asked_for_at_once_differ(sampler_name):
    study = optuna.create_study(sampler=sampler_named(sampler_name), direction="maximize")

    at_once = [tuple(SPACE.sample(study.ask()).values()) for _ in range(4)]

    assert len(set(at_once)) == 4


def test_a_trial_that_an_earlier_driver_left_behind_keeps_its_configuration(sampler_name):
    storage = optuna.storages.InMemoryStorage()
    run_driver(storage, sampler_name)
    study = optuna.load_study(storage=storage, study_name="s", sampler=sampler_named(sampler_name))
    before = SPACE.sample(study.ask())

    resumed = optuna.load_study(storage=storage, study_name="s", sampler=sampler_named(sampler_name))
    adopted = optuna.trial.Trial(resumed, resumed.trials[-1]._trial_id)

    assert SPACE.sample(adopted) == before


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_the_sampler_that_needs_pytorch_says_so_and_names_the_others():
    with pytest.raises(
        SamplerError, match=r"'gp' needs PyTorch.*uv pip install torch.*random, tpe, cmaes, nsgaii, qmc"
    ):
        check_sampler(StudySettings(name="s", trials=1, sampler="gp"))
