"""Trials that failed are held back until it is clear that they are to blame."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from study.failures import MAX_ALIKE, AlikeFailures
from study.transitions import Tell

OK = Tell(TrialState.COMPLETE, 0.5, "completed")


def failed(reason: str, outcome: str = "crashed") -> Tell:
    return Tell(TrialState.FAIL, None, outcome, reason)


def trial(number: int) -> SimpleNamespace:
    return SimpleNamespace(number=number)


def numbers(told) -> list[int]:
    return [each.number for each, _ in told]


def test_a_failure_is_told_when_the_next_trial_ends_well():
    failures = AlikeFailures()

    assert failures.add(trial(0), failed("a")) == []
    assert failures.numbers() == [0]
    assert numbers(failures.add(trial(1), OK)) == [0, 1]
    assert failures.numbers() == []


def test_a_failure_of_another_kind_has_those_before_it_told():
    failures = AlikeFailures()
    failures.add(trial(0), failed("ValueError: a"))

    assert numbers(failures.add(trial(1), failed("KeyError: b"))) == [0]
    assert failures.numbers() == [1]


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("OSError: '/data/1.png' is truncated, attempt 2", "OSError: '/data/22.png' is truncated, attempt 3"),
        ("width=3 does not divide 16", "width=5 does not divide 16"),
        ("cannot read /scratch/a/b.npy", "cannot read /scratch/c.npy"),
    ],
)  # fmt: skip
def test_numbers_paths_and_what_is_quoted_make_no_difference(one, another):
    failures = AlikeFailures()

    for number, reason in enumerate((one, another, one)):
        assert failures.add(trial(number), failed(reason)) == []
    assert failures.are_too_many()


def test_it_takes_three_in_a_row():
    failures = AlikeFailures()
    for number in range(MAX_ALIKE - 1):
        failures.add(trial(number), failed("a"))
    assert not failures.are_too_many()
    failures.add(trial(7), OK)
    failures.add(trial(8), failed("a"))

    assert not failures.are_too_many()


def test_ends_of_another_name_are_not_alike():
    failures = AlikeFailures()
    failures.add(trial(0), failed("a", "crashed"))

    assert numbers(failures.add(trial(1), failed("a", "out of memory"))) == [0]
