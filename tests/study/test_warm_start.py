"""A sampler that learns from the trials of earlier studies."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial

from storage.database.endpoint import StorageError
from study.config import StudyConfig, load_config
from study.opening import open_study
from study.samplers import SamplerError, check_sampler, sampler_of
from study.warm_start import WarmStartError, earlier_trials
from tests.study.fakes import new_plan
from tests.study.reporting.made_studies import completed
from tests.study.small_study import write_config

GOOD = 0.03


@pytest.fixture(autouse=True)
def database_of_the_study_alone(monkeypatch):
    monkeypatch.delenv("SWITCHYARD_STORAGE", raising=False)


def store_earlier(folder: Path, name: str, *overrides: str, trials: int = 20) -> str:
    """A finished study, in which learning rates near GOOD are the best; gives its database."""
    plan = new_plan(folder, f"study.name={name}", *overrides)
    url = f"sqlite:///{folder / 'runs' / name / 'study.db'}"
    (folder / "runs" / name).mkdir(parents=True)
    storage = optuna.storages.RDBStorage(url)
    study = open_study(storage, plan, optuna.samplers.RandomSampler(seed=0))
    for number in range(trials):
        trial = study.ask()
        plan.config.search_space.sample(trial)
        distance = abs(trial.params["learning_rate"] - GOOD)
        made = completed(number, 0.9 - min(0.8, distance))
        for key, value in made.user_attrs.items():
            trial.set_user_attr(key, value)
        study.tell(trial, made.value)
    trial = study.ask()
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return url


def config(folder: Path, *overrides: str) -> StudyConfig:
    return load_config(write_config(folder), [f"study.runs_dir={folder / 'runs'}", *overrides])


def first_rates(asked: StudyConfig, earlier: list[FrozenTrial], count: int = 8) -> list[float]:
    study = optuna.create_study(direction="maximize")
    rates = []
    study.sampler = sampler_of(asked.study, asked.search_space, earlier=earlier)
    for _ in range(count):
        trial = study.ask()
        rates.append(trial.suggest_float("learning_rate", 1e-3, 1.0, log=True))
        study.tell(trial, 0.5)
    return rates


def test_the_completed_trials_come_before_the_study_s_own(tmp_path):
    store_earlier(tmp_path, "first", trials=2)
    url = store_earlier(tmp_path, "second", trials=3)

    earlier = earlier_trials(config(tmp_path, f'study.warm_start=["first", "second@{url}"]'))

    assert [trial.number for trial in earlier] == [-5, -4, -3, -2, -1]
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in earlier)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sampler_begins_where_earlier_trials_were_good(tmp_path, sampler):
    store_earlier(tmp_path, "first")
    asked = config(tmp_path, "study.warm_start=['first']", f"study.sampler={sampler}")

    warm = first_rates(asked, earlier_trials(asked))
    cold = first_rates(asked, [])

    def near(rates: list[float]) -> int:
        return sum(GOOD / 4 < rate < GOOD * 4 for rate in rates)

    # CMA-ES draws its first one at random.
    assert near(warm) > near(cold)


def test_a_warm_start_is_no_part_of_what_a_study_is(tmp_path):
    store_earlier(tmp_path, "first", trials=1)

    assert config(tmp_path, "study.warm_start=['first']").identity() == config(tmp_path).identity()


@pytest.mark.parametrize("sampler", ["random", "qmc", "nsgaii"])
def test_a_sampler_that_would_not_learn_is_refused(tmp_path, sampler):
    asked = config(tmp_path, "study.warm_start=['first']", f"study.sampler={sampler}")

    with pytest.raises(SamplerError, match=f"'{sampler}' learns nothing from a warm start; choose one of tpe, cmaes"):
        check_sampler(asked.study)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["study.objective=f1_macro"], "optimises f1_macro, the new one f1_micro"),
        (['study.objectives=["f1_micro", "-wall_s"]'], "optimises f1_micro, wall_s, the new one f1_micro"),
        (
            ["search_space.optimizer.learning_rate={type='float', low=0.002, high=1.0, log=true}"],
            "trial 0 of this study samples learning_rate from FloatDistribution(high=1.0, log=True, low=0.002",
        ),
    ],
)
def test_a_study_of_something_else_is_refused(tmp_path, overrides, words):
    if "wall_s" in overrides[0]:
        plan = new_plan(tmp_path, "study.name=first", *overrides)
        (tmp_path / "runs" / "first").mkdir(parents=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'runs/first/study.db'}")
        made = completed(0, 0.5)
        made.values = [0.5, 1.0]
        open_study(storage, plan, optuna.samplers.RandomSampler()).add_trial(made)
    else:
        store_earlier(tmp_path, "first", *overrides, trials=1)

    with pytest.raises(WarmStartError) as refused:
        earlier_trials(config(tmp_path, "study.warm_start=['first']"))

    assert words in str(refused.value)


def test_a_study_without_results_is_refused(tmp_path):
    store_earlier(tmp_path, "first", trials=0)

    with pytest.raises(WarmStartError, match="--warm-start first: this study has no completed trial"):
        earlier_trials(config(tmp_path, "study.warm_start=['first']"))


@pytest.mark.parametrize("source", ["absent", "first@postgresql://me:secret@host/database", "first@nowhere"])
def test_what_is_no_study_is_refused_without_the_words_that_may_be_secret(tmp_path, source):
    with pytest.raises(StorageError) as refused:
        earlier_trials(config(tmp_path, f'study.warm_start=["{source}"]'))

    assert "secret" not in str(refused.value)
