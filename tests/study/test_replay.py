"""An earlier study's configurations once more, whatever ends first this time."""

from __future__ import annotations

import functools
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from storage.database import schema
from storage.database.endpoint import StorageError
from study.config import ConfigError, StudyConfig
from study.opening import StudyMismatchError, open_study
from study.plan import StudyPlan
from study.replay import ReplayError, describe_replay, recorded_configurations
from study.samplers import sampler_of
from tests.study.fakes import new_plan

MOMENTUM = "search_space.optimizer.momentum={type='float', low=0.0, high=0.9}"
TRIALS = 24


@pytest.fixture(autouse=True)
def database_of_the_study_alone(monkeypatch):
    monkeypatch.delenv("SWITCHYARD_STORAGE", raising=False)


def plan_of(folder: Path, name: str, *overrides: str) -> StudyPlan:
    return new_plan(folder, f"study.name={name}", MOMENTUM, *overrides)


def open_as_driver(plan: StudyPlan, storage: BaseStorage) -> optuna.Study:
    """With a sampler of its own, as each driver has it."""
    config = plan.config
    replayed = recorded_configurations(config)
    return open_study(storage, plan, sampler_of(config.study, config.search_space, config.enqueue, replayed=replayed))


def own_file(plan: StudyPlan) -> str:
    """Where a study is looked for by its name."""
    plan.folder.mkdir(parents=True)
    return f"sqlite:///{plan.folder / 'study.db'}"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Callable[..., Path]:
    """The runs folder with a study "first", by its options; made once."""

    @functools.cache
    def record(*options: str) -> Path:
        plan = plan_of(tmp_path_factory.mktemp("first"), "first", *options)
        storage = InMemoryStorage()
        run(plan, order=1, storage=storage)
        # Many times as fast as to run it there.
        optuna.copy_study(from_study_name="first", from_storage=storage, to_storage=own_file(plan))
        return plan.folder.parent

    return record


@pytest.fixture
def record(recordings, tmp_path) -> Callable[..., list[dict]]:
    """Put a study "first" here; gives its configurations."""

    def put(*options: str) -> list[dict]:
        shutil.copytree(recordings(*options), tmp_path / "runs")
        study = optuna.load_study(storage=f"sqlite:///{tmp_path / 'runs/first/study.db'}", study_name="first")
        return [trial.params for trial in study.get_trials(deepcopy=False)]

    return put


def run(
    plan: StudyPlan, order: int, trials: int = TRIALS, at_once: int = 4, storage: BaseStorage | None = None
) -> list[dict]:
    """Trials until there are so many; they end in an order of their own, and half of them under another driver."""
    draw, storage = random.Random(order), storage or InMemoryStorage()
    study = open_as_driver(plan, storage)
    while under_way := _begin(study, plan.config, trials, at_once):
        if len(study.get_trials(deepcopy=False)) == trials // 2:
            study = open_as_driver(plan, storage)
        trial = draw.choice(under_way)
        if draw.random() < 0.1:
            study.tell(trial.number, state=TrialState.FAIL)
        else:
            study.tell(trial.number, draw.random())
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def _begin(study: optuna.Study, config: StudyConfig, trials: int, at_once: int) -> list[optuna.trial.FrozenTrial]:
    while True:
        all_trials = study.get_trials(deepcopy=False)
        under_way = [trial for trial in all_trials if trial.state is TrialState.RUNNING]
        if len(under_way) == at_once or len(all_trials) == trials:
            return under_way
        config.search_space.sample(study.ask())


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsgaii", "qmc"])
def test_a_replay_has_the_same_configurations_though_trials_end_in_another_order_with_other_values(
    tmp_path, record, sampler
):
    first = record(f"study.sampler={sampler}")

    again = run(plan_of(tmp_path, "again", f"study.sampler={sampler}", "study.replay=first"), order=2, at_once=3)

    assert again == first


def test_without_a_replay_another_order_of_ends_gives_other_configurations(tmp_path, record):
    first = record("study.sampler=tpe")

    assert run(plan_of(tmp_path, "other", "study.sampler=tpe"), order=2) != first


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsgaii", "qmc"])
def test_trials_beyond_those_of_the_replayed_study_are_sampled(tmp_path, record, sampler):
    first = record(f"study.sampler={sampler}")

    again = run(plan_of(tmp_path, "again", f"study.sampler={sampler}", "study.replay=first"), order=2, trials=30)

    assert again[:TRIALS] == first
    assert len({tuple(configuration.values()) for configuration in again}) == 30


@pytest.mark.parametrize(
    "options",
    [
        ("study.sampler=random",),
        ("study.sampler=tpe",),
        ("study.sampler=cmaes",),
        ("study.sampler=nsgaii",),
        ("study.sampler=tpe", "study.repeats=2"),
        ("study.sampler=tpe", "enqueue=[{momentum=0.25}, {learning_rate=0.5}]"),
    ],
)
def test_the_sampler_says_the_same_again_of_the_database_alone(tmp_path, record, options):
    record(*options)

    said = describe_replay(plan_of(tmp_path, "again", "study.replay=first", *options).config, earlier=[])

    assert said == "24 configurations of first; asked again, the sampler gives the same"


def test_a_sampler_that_saw_something_else_says_something_else(tmp_path, record):
    record("study.sampler=tpe")
    # As if the last trial had been asked for before anything was told.
    with sqlite3.connect(tmp_path / "runs/first/study.db") as database:
        database.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = ? "
            "AND trial_id = (SELECT max(trial_id) FROM trials)",
            (str([*range(TRIALS - 1)]), schema.UNDER_WAY),
        )

    said = describe_replay(plan_of(tmp_path, "again", "study.sampler=tpe", "study.replay=first").config, earlier=[])

    assert "asked again, the sampler gives another one for trial 23" in said


def test_a_study_of_an_older_version_is_replayed_too(tmp_path, record):
    first = record("study.sampler=tpe")
    with sqlite3.connect(tmp_path / "runs/first/study.db") as database:
        database.execute("DELETE FROM trial_user_attributes WHERE key = ?", (schema.UNDER_WAY,))

    again = plan_of(tmp_path, "again", "study.sampler=tpe", "study.replay=first")

    assert "an older version has not stored how" in describe_replay(again.config, earlier=[])
    assert run(again, order=2) == first


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["study.seed=8"], "study.seed is 7 there and 8 here"),
        (["study.sampler=tpe"], "study.sampler is 'random' there and 'tpe' here"),
        (["study.repeats=2"], "study.repeats is 1 there and 2 here"),
        (["search_space.optimizer.momentum={type='float', low=0.0, high=0.8}"], "search_space is .*0.9.*0.8"),
        (["enqueue=[{momentum=0.5}]"], "enqueue is"),
    ],
)
def test_a_study_with_other_configurations_is_refused(tmp_path, record, overrides, words):
    record("study.sampler=random")

    with pytest.raises(ReplayError, match=f"--replay first: {words}"):
        recorded_configurations(plan_of(tmp_path, "again", "study.replay=first", *overrides).config)


def test_a_study_without_trials_is_refused(tmp_path):
    plan = plan_of(tmp_path, "first")
    open_as_driver(plan, RDBStorage(own_file(plan)))

    with pytest.raises(ReplayError, match="has no trials yet"):
        recorded_configurations(plan_of(tmp_path, "again", "study.replay=first").config)


def test_a_study_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "runs" / "theirs").mkdir(parents=True)
    url = f"sqlite:///{tmp_path / 'runs/theirs/study.db'}"
    optuna.create_study(storage=url, study_name="theirs")

    with pytest.raises(ReplayError, match="Switchyard did not make this study"):
        recorded_configurations(plan_of(tmp_path, "again", "study.replay=theirs").config)


def test_an_unknown_study_is_refused_without_its_password(tmp_path):
    with pytest.raises(StorageError) as refused:
        recorded_configurations(
            plan_of(tmp_path, "again", "study.replay='first@postgresql://me:secret@host/database'").config
        )

    assert "secret" not in str(refused.value)


def test_a_replay_that_goes_on_without_its_study_is_refused(tmp_path, record):
    record("study.sampler=random")
    storage = InMemoryStorage()
    open_as_driver(plan_of(tmp_path, "again", "study.replay=first"), storage)

    with pytest.raises(StudyMismatchError, match=r"study.replay is 'first' in the database, None now"):
        open_as_driver(plan_of(tmp_path, "again"), storage)


def test_given_configurations_and_a_replay_contradict_each_other(tmp_path):
    given = "study.configurations=[{learning_rate=0.1, momentum=0.5}]"

    with pytest.raises(ConfigError, match=r"study.replay and study.configurations; leave one"):
        plan_of(tmp_path, "again", "study.replay=first", given)
