"""What a report reads, whatever state the rows are in."""

from __future__ import annotations

import optuna
import pytest
from sqlalchemy.engine import make_url

from storage.database import schema
from storage.database.schema import AttemptRow
from study.reporting.load import ReportError, load_arms, read_arm
from tests.study.reporting.made_studies import (
    CONSTANT,
    SWITCH,
    arm,
    completed,
    config,
    diverged,
    failed,
    parameters,
    running,
    store,
)


def test_trials_of_the_same_parameters_are_one_configuration():
    made = arm("a", [completed(0, 0.6), completed(0, 0.8), completed(1, 0.65)])

    first, second = made.configurations
    assert [trial.number for trial in first.trials] == [0, 1]
    assert first.mean("f1_micro") == pytest.approx(0.7)
    assert second.mean("f1_micro") == pytest.approx(0.65)
    assert made.best is not None
    assert made.best.key == first.key


def test_parameters_that_differ_in_the_last_digit_are_two_configurations():
    close = {**parameters(0), "momentum": parameters(0)["momentum"] + 1e-16}

    made = arm("a", [completed(0, 0.6), completed(0, 0.8, sampled=close)])

    assert len(made.configurations) == (1 if close == parameters(0) else 2)


def test_a_trial_that_diverged_or_failed_has_no_score_and_is_never_the_best():
    made = arm("a", [diverged(0), failed(1), running(2)])

    assert made.best is None
    assert [trial.outcome for trial in made.trials] == ["diverged", "crashed", "unfinished"]
    assert len(made.unfinished) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wall_s": "long"}, "wall_s is 'long'"),
        ({"f1_micro": float("nan")}, "f1_micro is nan"),
        ({"f1_micro": None}, "f1_micro is None"),
        ({"scores": ["x"]}, "scores"),
        ({"epoch_s_by_batch_size": {"many": 1.0}}, "'many'"),
        ({"epochs:f1_micro": [0.1]}, "different numbers of epochs"),
        ({"classes": {"names": "x"}}, "ClassScores"),
        ({"test": {"samples": 1}}, "SplitScores lacks"),
        ({schema.ATTEMPTS: "lost"}, "attempts cannot be read"),
        ({schema.ATTEMPTS: [{"end": 3}]}, "attempts cannot be read"),
    ],
)
def test_malformed_rows_of_one_trial_are_noted_there_and_the_others_are_read(changes, said):
    made = arm("a", [completed(0, 0.6), completed(1, 0.7, stored=changes), completed(2, 0.5)])

    assert said in made.trials[1].problem
    assert [trial.problem for trial in (made.trials[0], made.trials[2])] == ["", ""]
    assert made.trials[0].score("f1_micro") == 0.6


def test_class_scores_of_other_lengths_are_malformed():
    broken = completed(0, 0.6).user_attrs["classes"] | {"f1": [0.1]}

    [trial] = arm("a", [completed(0, 0.6, stored={"classes": broken})]).trials

    assert "ClassScores.f1 has 1 entries for 3 classes" in trial.problem


def test_node_hours_count_lost_attempts_and_those_of_trials_that_are_not_over():
    rows = [AttemptRow("interrupted", -9, 36.0), AttemptRow("completed", 0, 64.0)]
    unfinished = running(1)
    unfinished.set_user_attr(schema.ATTEMPTS, [{"end": "paused", "exit_code": 0, "wall_s": 36.0}])

    made = arm("a", [completed(0, 0.5, wall_s=100.0, attempts=rows), unfinished])

    assert made.nodes == 2
    assert made.node_hours == pytest.approx((100 + 36) * 2 / 3600)
    assert made.lost_node_hours == pytest.approx(36 * 2 / 3600)


def test_the_switch_is_where_the_batch_size_changes():
    made = arm("a", [completed(0, 0.5), completed(1, 0.5), diverged(2)])

    [switch] = made.switches
    assert (switch.epoch, switch.before, switch.after, switch.trials) == (2, 32, 256, 2)
    assert made.batch_sizes == (32, 256)


def test_a_study_without_config_or_trials_is_read():
    study = optuna.create_study(study_name="blank", direction="maximize")

    made = read_arm(study, make_url("sqlite:///x.db"))

    assert made.trials == ()
    assert made.problem == "its config is not stored"
    assert made.best is None
    assert made.elapsed_s is None


def test_openings_that_are_malformed_are_a_problem_of_the_study(tmp_path):
    store(tmp_path, "a", [completed(0, 0.5)], config(SWITCH), **{schema.STUDY_OPENINGS: [{"commit": 3}]})

    [made] = load_arms(["a"], None, tmp_path / "runs")

    assert "Openings" in made.problem
    assert made.openings == ()
    assert made.trials[0].is_completed


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "maximize"]])
def test_a_study_that_is_not_ours_is_refused(directions):
    study = optuna.create_study(study_name="other", directions=directions)

    with pytest.raises(ReportError, match="'other' does not maximise one score"):
        read_arm(study, make_url("sqlite:///x.db"))


def test_a_study_that_is_named_twice_is_refused(tmp_path):
    store(tmp_path, "a", [], config(CONSTANT))

    with pytest.raises(ReportError, match="'a' is named twice"):
        load_arms(["a", "a"], None, tmp_path / "runs")
