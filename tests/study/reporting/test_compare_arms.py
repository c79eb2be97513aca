"""Which arms compare, and what their shared configurations say."""

from __future__ import annotations

import numpy as np
import pytest

from study.reporting.compare_arms import choose_baseline, compare, compare_arms
from study.reporting.statistics import Correlation
from study.reporting.verdict import verdict
from tests.study.reporting.made_studies import CONSTANT, SWITCH, arm, completed, config, diverged, parameters, running

SCORES = [0.5, 0.6, 0.7, 0.55, 0.65]


def arms(switch=(), constant=(), **tables):
    """Arms whose configuration n reached the n-th score."""
    return (
        arm("constant", [completed(n, s, sizes=(32,)) for n, s in enumerate(constant or SCORES)], CONSTANT),
        arm("switch", [completed(n, s, wall_s=50.0) for n, s in enumerate(switch or SCORES)], SWITCH, **tables),
    )


def test_the_constant_arm_is_the_baseline_wherever_it_stands():
    constant, switch = arms()

    assert choose_baseline([switch, constant]) is constant
    assert choose_baseline([switch]) is switch
    assert [c.other.name for c in compare_arms([switch, constant])] == ["switch"]


def test_pairs_are_made_by_parameters_and_not_by_number():
    constant = arm("constant", [completed(n, s) for n, s in ((0, 0.5), (1, 0.6), (2, 0.7))], CONSTANT)
    switch = arm("switch", [completed(n, s) for n, s in ((2, 0.71), (0, 0.52), (9, 0.9))])

    comparison = compare(constant, switch)

    assert sorted(comparison.differences("f1_micro")) == pytest.approx([0.01, 0.02])


def test_seeds_of_a_configuration_are_averaged_before_they_are_compared():
    constant = arm("constant", [completed(0, 0.5), completed(0, 0.7)], CONSTANT)
    switch = arm("switch", [completed(0, 0.65)])

    assert compare(constant, switch).differences("f1_micro") == pytest.approx([0.05])


def test_a_configuration_that_did_not_complete_in_both_is_counted_and_left_out():
    constant = arm("constant", [completed(0, 0.5), completed(1, 0.6), completed(2, 0.5)], CONSTANT)
    switch = arm("switch", [completed(0, 0.5), diverged(1), running(2)])

    comparison = compare(constant, switch)

    assert len(comparison.pairs) == 1
    assert comparison.unpaired == 2


def test_the_speed_up_is_the_baselines_time_over_the_others():
    constant, switch = arms()

    assert compare(constant, switch).speed_up.value == pytest.approx(2.0)


def test_only_the_batch_policy_differs_in_the_arms_of_an_experiment():
    comparison = compare(*arms())

    assert comparison.unlike == ()
    assert comparison.obstacle == ""


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"model": {"width": 32}}, "model.width is not set in 'constant' and 32 in 'switch'"),
        ({"dataset": {"name": "eurosat"}}, "dataset.name is 'synthetic_bigearthnet' in 'constant' and 'eurosat'"),
        ({"training": {"epochs": 50}}, "training.epochs is 6 in 'constant' and 50 in 'switch'"),
        ({"study": {"objective_epoch": "best"}}, "study.objective_epoch is 'last' in 'constant' and 'best'"),
    ],
)
def test_arms_that_differ_in_more_are_paired_and_named_as_unlike(tables, said):
    comparison = compare(*arms(**tables))

    assert any(said in words for words in comparison.unlike)
    assert len(comparison.pairs) == len(SCORES)
    assert said in comparison.unlike_in_words


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"study": {"objective": "f1_macro"}}, "study.objective is 'f1_micro' in 'constant' and 'f1_macro'"),
        (
            {"search_space": {"optimizer": {"learning_rate": {"type": "float", "low": 0.1, "high": 1.0, "log": True}}}},
            "search_space.optimizer.learning_rate.low is 0.001 in 'constant' and 0.1 in 'switch'",
        ),
    ],
)
def test_arms_of_other_spaces_or_scores_are_not_paired(tables, said):
    comparison = compare(*arms(**tables))

    assert said in comparison.obstacle
    assert comparison.is_decisively_unlike
    assert comparison.pairs == ()


def test_a_study_that_is_older_than_a_key_had_its_default():
    constant, switch = arms()
    older = config(CONSTANT)
    for key in ("precision", "jit", "accumulation_steps", "patience"):
        del older["training"][key]
    del older["study"]["objective_epoch"], older["study"]["repeats"], older["task"]
    old = arm("constant", [completed(0, 0.5)], CONSTANT)
    object.__setattr__(old, "config", older)

    assert compare(old, switch).unlike == ()
    assert compare(constant, old).unlike == ()


def test_arms_without_a_shared_configuration_have_no_pairs_but_are_not_unlike():
    comparison = compare(arm("constant", [completed(0, 0.5)], CONSTANT), arm("switch", [completed(1, 0.5)]))

    assert comparison.obstacle == "no configuration completed in both"
    assert not comparison.is_decisively_unlike


def sentences(constant, switch):
    made = arms(switch, constant)
    return verdict(made, compare_arms(made))


def test_the_verdict_names_split_epoch_and_seeds():
    reached, _, _ = sentences(SCORES, SCORES)

    assert "validation split" in reached
    assert "in the last epoch" in reached
    assert "1 seed per configuration" in reached


def test_an_interval_around_0_is_called_inconclusive():
    draws = np.random.default_rng(2)
    constant = draws.uniform(0.4, 0.7, 24)

    _, difference, _ = sentences(constant.tolist(), (constant + draws.normal(0, 0.02, 24)).tolist())

    assert "inconclusive" in difference
    assert "Over the 24 configurations" in difference


@pytest.mark.parametrize(("shift", "said"), [(-0.05, "so it is worse"), (0.05, "so it is better")])
def test_an_interval_without_0_says_which_is_better(shift, said):
    draws = np.random.default_rng(2)
    constant = draws.uniform(0.4, 0.7, 24)

    _, difference, _ = sentences(constant.tolist(), (constant + shift + draws.normal(0, 0.01, 24)).tolist())

    assert said in difference


def test_an_interval_of_a_handful_of_configurations_decides_nothing():
    _, difference, _ = sentences(SCORES, [score - 0.05 for score in SCORES])

    assert "too narrow to rely on" in difference


def test_the_verdict_of_one_study_says_whether_its_winner_is_sure():
    clear = arm("a", [completed(0, s) for s in (0.7, 0.701, 0.702)] + [completed(1, s) for s in (0.5, 0.501, 0.502)])
    open_ = arm("a", [completed(0, s) for s in (0.6, 0.7, 0.8)] + [completed(1, s) for s in (0.59, 0.69, 0.78)])

    assert "do not overlap" in verdict([clear], [])[1]
    assert "overlap, so which is better is open" in verdict([open_], [])[1]
    assert "one seed per configuration cannot say" in verdict([arm("a", [completed(0, 0.6), completed(1, 0.5)])], [])[1]


def test_the_verdict_of_a_study_without_a_completed_trial_says_so():
    reached, _, _ = verdict([arm("a", [running(0), diverged(1)])], [])

    assert reached.startswith("No trial has completed yet")


def test_the_best_of_each_arm_may_be_another_configuration():
    constant, switch = arms([0.9, 0.6, 0.7, 0.55, 0.65], SCORES)

    comparison = compare(constant, switch)

    assert comparison.agreement("f1_micro", 1) == 0
    assert comparison.correlation("f1_micro", Correlation.SPEARMAN) is not None
    assert constant.best is not None
    assert constant.best.parameters == parameters(2)
