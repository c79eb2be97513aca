"""Several objectives and a constraint: what a config says, what trials are told with, what is best."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection
from rich.console import Console

from storage.database.schema import TrialRecord
from study.closing_table import closing_table
from study.config import ConfigError, StudyConfig, StudySettings, load_config
from study.evaluation import candidates
from study.finished_trials import best_trial
from study.objectives import Constraint, Objective, pareto_front
from study.reporting.load import read_arm
from study.reporting.summary import pareto_front as front_table
from study.samplers import OF_ONE_OBJECTIVE, SAMPLERS, SamplerError, check_sampler, sampler_of
from study.search_space import SearchSpace
from tests.study.pruned_study import PrunedStudy
from tests.study.reporting.made_studies import completed
from tests.study.small_study import write_config

SEARCH_SPACE = SearchSpace.model_validate(
    {
        "optimizer": {
            "learning_rate": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9},
        }
    }
)

BOTH = 'study.objectives=["f1_micro", "-node_hours"]'


def record(**fields) -> TrialRecord:
    known = {"outcome": "completed", "reason": "", "wall_s": 36.0, "node_hours": 0.01, "attempt_count": 1}
    return TrialRecord(**known | {"f1_micro": 0.75, "scores": {"accuracy": 0.5}, **fields})


@pytest.mark.parametrize(
    ("name", "value"),
    [("f1_micro", 0.75), ("accuracy", 0.5), ("-node_hours", 0.01), ("-wall_s", 36.0), ("-val_loss", 0.25)],
)
def test_an_objective_is_a_number_of_the_trial_in_the_epoch_that_counts(name, value):
    counted = record(curves={"val_loss": [0.5, 0.25, 0.75]}, counted_epoch=1)

    assert Objective.parse(name).value_of(counted) == value


def test_the_energy_of_all_attempts_is_an_objective_and_a_constraint():
    measured = record(energy_j=7.2e6, energy_j_by_counter={"rapl": 7.2e6})

    assert Objective.parse("-energy_kwh").value_of(measured) == 2.0
    assert Constraint.parse("energy_kwh <= 1.5").violation(measured) == 0.5
    assert Objective.parse("-energy_kwh").value_of(record()) == math.inf


def test_a_trial_does_not_take_less_energy_for_want_of_a_counter():
    """Energy as an objective is that of the GPUs, where there are any, and of the processors elsewhere."""
    on_gpus = {"communicator": {"gpus": ["NVIDIA A100 GPU-1", "NVIDIA A100 GPU-2"]}}
    by_both = record(energy_j_by_counter={"nvml": 7.2e6, "rapl": 3.6e6}, **on_gpus)
    by_one = record(energy_j_by_counter={"nvml": 7.2e6}, **on_gpus)
    by_the_other = record(energy_j_by_counter={"rapl": 3.6e6}, **on_gpus)
    on_processors = record(energy_j_by_counter={"rapl": 3.6e6}, communicator={"gpus": ["", ""]})

    values = map(Objective.parse("-energy_kwh").value_of, (by_both, by_one, by_the_other, on_processors))
    assert list(values) == [2.0, 2.0, math.inf, 1.0]


def test_a_trial_that_diverged_is_worth_nothing_and_has_cost_what_it_has_cost():
    diverged = record(outcome="diverged", f1_micro=0.5, curves={"val_loss": [None]}, counted_epoch=0)

    values = [Objective.parse(name).value_of(diverged) for name in ("f1_micro", "-val_loss", "-node_hours")]

    assert values == [0.0, math.inf, 0.01]


@pytest.mark.parametrize(("name", "worst"), [("f1_macro", 0.0), ("precision_micro", 0.0), ("-val_loss", math.inf)])
def test_what_a_trial_does_not_report_is_the_worst_there_is(name, worst):
    assert Objective.parse(name).value_of(record()) == worst


@dataclass(frozen=True)
class Point:
    number: int
    values: tuple[float, ...]


GOALS = tuple(map(Objective.parse, ("f1_micro", "-node_hours", "-val_loss")))
COORDINATES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES), max_size=12))
def test_the_front_is_optunas_own(points):
    study = optuna.create_study(directions=[goal.direction for goal in GOALS])
    study.add_trials([optuna.trial.create_trial(values=list(values)) for values in points])

    front = pareto_front([Point(number, values) for number, values in enumerate(points)], GOALS)

    assert {point.number for point in front} == {trial.number for trial in study.best_trials}
    assert [point.values[0] for point in front] == sorted((point.values[0] for point in front), reverse=True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('study.objectives=["-node_hours", "f1_micro"]', "objective"),
        (
            'study.objectives=["f1_micro", "node_hours"]',
            "'node_hours' cannot stand beside 'f1_micro'; it must be one of",
        ),
        ('study.objectives=["f1_micro", "-f1_macro"]', "'-f1_macro' cannot stand beside"),
        ('study.objectives=["f1_micro", "accuracy_top5"]', "'accuracy_top5' cannot stand beside"),
        ('study.objectives=["f1_micro", "f1_micro"]', "objectives name one thing twice"),
        ("study.constraint='node_hours < 40'", "write NAME <= NUMBER or NAME >= NUMBER"),
        ("study.constraint='energy <= 40'", "with a NAME of f1_micro"),
        ("study.constraint='node_hours <= forty'", "write NAME <= NUMBER"),
    ],
)
def test_what_no_study_can_have_is_refused(tmp_path, override, words):
    with pytest.raises(ConfigError) as refused:
        load_config(write_config(tmp_path), [override])

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_first_of_several_is_the_objective(tmp_path):
    path = write_config(tmp_path)

    assert load_config(path, ['study.objectives=["f1_macro", "-wall_s"]']).study.objective == "f1_macro"
    with pytest.raises(ConfigError, match="leave objective out"):
        load_config(path, [BOTH, "study.objective=f1_macro"])


def test_a_study_of_an_older_version_has_one_objective_and_no_constraint(tmp_path):
    now, older = load_config(write_config(tmp_path), []).identity(), StudyConfig.identity_defaults()

    for key in ("objectives", "constraint", "configurations"):
        assert older["study"][key] == now["study"][key]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "cmaes", "objectives": ["f1_micro", "-wall_s"]}, "'cmaes' has one objective only"),
    ],
)
def test_a_sampler_that_cannot_do_it_is_refused_by_name(settings, words):
    with pytest.raises(SamplerError, match=words):
        check_sampler(StudySettings(name="s", trials=3, **settings))


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"gp", *OF_ONE_OBJECTIVE}))
def test_every_sampler_of_several_objectives_learns_from_trials_of_every_end(name):
    settings = StudySettings(name="s", trials=30, sampler=name, objectives=("f1_micro", "-node_hours"))
    study = optuna.create_study(directions=[goal.direction for goal in settings.goals])
    study.sampler = sampler_of(settings, SEARCH_SPACE)
    for number in range(30):
        trial = study.ask(SEARCH_SPACE.distributions())
        trial.storage.set_trial_intermediate_value(trial._trial_id, 0, 0.5)
        match number % 5:
            case 3:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            case 4:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            case _:
                study.tell(trial, [trial.params["momentum"], 1.0])

    assert len({tuple(trial.params.values()) for trial in study.trials}) == 30


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ("node_hours <= 0.01", True),
        ("node_hours<=9e-3", False),
        ("accuracy >= 0.5", True),
        ("f1_micro >= 0.8", False),
        # Nobody knows.
        ("val_loss <= 9", False),
    ],
)
def test_a_constraint_is_a_bound_on_what_a_trial_reports(text, is_kept):
    assert (Constraint.parse(text).violation(record()) <= 0) is is_kept


def drive(tmp_path, *overrides: str) -> PrunedStudy:
    """Six trials, of which each one is better than the one before."""
    study = PrunedStudy(
        tmp_path, lambda trial, epoch: 0.1 * (trial + 1) + 0.01 * epoch, ("study.trials=6", BOTH, *overrides), 4
    )
    study.drive()
    return study


def test_each_trial_is_told_with_all_of_its_values(tmp_path):
    study = drive(tmp_path)

    assert study.states == "C" * 6
    assert [trial.values for trial in study.trials] == [
        [pytest.approx(0.1 * (number + 1) + 0.03), pytest.approx(0.01)] for number in range(6)
    ]
    [stored] = study.storage.get_all_studies()
    assert stored.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]


def test_a_trial_that_breaks_the_constraint_is_not_the_best_to_anybody(tmp_path):
    study = drive(tmp_path, "study.constraint='f1_micro <= 0.5'", "study.objectives=[]")

    assert [trial.constraints["f1_micro <= 0.5"] > 0 for trial in study.trials] == [False] * 4 + [True] * 2
    loaded = optuna.load_study(storage=study.storage, study_name=study.plan.name)
    assert loaded.best_trial.number == best_trial(study.trials).number == 3
    assert read_arm(loaded, study.plan.database).best.trials[0].number == 3
    assert [each.trials for each in candidates(study.trials)] == [(3,), (2,), (1,), (0,)]


@pytest.mark.parametrize(
    "pruner",
    [
        ("pruner.name=median", "pruner.startup_trials=1", "pruner.warmup_epochs=1"),
        ("pruner.name=asha", "pruner.rungs=[1]", "pruner.factor=2"),
        ("pruner.name=patient", "pruner.patience=1"),
        ("pruner.name=threshold", "pruner.lower=0.35"),
    ],
)
def test_pruners_go_by_the_first_objective(tmp_path, pruner):
    several, one = drive(tmp_path / "several", *pruner), drive(tmp_path / "one", "study.objectives=[]", *pruner)

    assert several.states == one.states
    assert "C" in several.states


def test_the_closing_table_shows_the_front_and_who_breaks_the_constraint():
    trials = [completed(0, 0.6, wall_s=300), completed(1, 0.8, wall_s=200), completed(2, 0.7, wall_s=100)]
    for number, trial in enumerate(trials):
        trial.number = number
        trial.values = [trial.value, trial.user_attrs["node_hours"]]
    trials[2].system_attrs["constraints:wall_s >= 200"] = 100.0
    goals = tuple(map(Objective.parse, ("f1_micro", "-node_hours")))
    console = Console(file=io.StringIO(), width=120)

    console.print(closing_table("s", trials, "sqlite:///x.db", "", goals))

    table = console.file.getvalue()
    assert "trial 1: f1_micro 0.8000, node_hours 0.1111" in table
    assert "trial 0: f1" not in table
    assert "broken by 1 of 3 completed trials" in table


def test_the_front_is_in_report_and_comparison(tmp_path):
    study = drive(tmp_path)

    arm = read_arm(optuna.load_study(storage=study.storage, study_name=study.plan.name), study.plan.database)

    table = front_table([arm])
    # All cost the same, so the best one is the front.
    assert [row[:3] for row in table.rows] == [(arm.name, 5, pytest.approx(0.63))]
    assert [column.heading for column in table.columns][2:4] == ["F1 micro", "node-hours"]
