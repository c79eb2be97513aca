"""What follows from the end of an attempt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.attempt import AttemptEnd, EndKind
from storage.protocol.records import EpochMetrics, Outcome, TrialResult
from study.transitions import (
    MAX_INTERRUPTIONS_WITHOUT_PROGRESS,
    Finish,
    Halt,
    Tell,
    Transition,
    TryAgain,
    cause,
    merge_epochs,
    next_transition,
)

CRASH_RETRIES = 1


def epochs(*numbers: int, f1_micro: float = 0.5, f1_macro: float = 0.4) -> tuple[EpochMetrics, ...]:
    return tuple(
        EpochMetrics(
            epoch=number,
            train_loss=0.1,
            val_loss=0.2,
            f1_micro=f1_micro,
            f1_macro=f1_macro,
            global_batch_size=16,
            learning_rate=0.1,
            updates=4,
            samples=64,
            samples_per_s=100.0,
            first_batch_s=0.1,
            wall_s=1.0,
        )
        for number in numbers
    )


def ended(outcome: Outcome, *numbers: int, reason: str = "", **scores: float) -> AttemptEnd:
    result = TrialResult(outcome, len(numbers), reason)
    return AttemptEnd(EndKind.ENDED, 0, 1.0, result, epochs(*numbers, **scores))


def failed(kind: EndKind, *numbers: int, exit_code: int = 1, log_tail: str = "") -> AttemptEnd:
    return AttemptEnd(kind, exit_code, 1.0, None, epochs(*numbers), log_tail=log_tail)


def interrupted(*numbers: int) -> AttemptEnd:
    return failed(EndKind.INTERRUPTED, *numbers, exit_code=137)


def decide(*ends: AttemptEnd, crash_retries: int = CRASH_RETRIES) -> Transition:
    return next_transition(ends, "f1_micro", crash_retries)


CRASHED = failed(EndKind.CRASHED)
ABANDONED = failed(EndKind.ABANDONED, exit_code=-1)


@pytest.mark.parametrize(
    ("history", "finish", "value", "outcome"),
    [
        pytest.param([ended(Outcome.COMPLETED, 0, 1)], Finish.COMPLETE, 0.5, "completed", id="completed"),
        pytest.param([ended(Outcome.DIVERGED, 0)], Finish.COMPLETE, 0.0, "diverged", id="diverged"),
        pytest.param([ended(Outcome.PRUNED, 0)], Finish.PRUNED, None, "pruned", id="pruned"),
        pytest.param([failed(EndKind.BAD_SPEC, exit_code=2)], Finish.FAIL, None, "bad spec", id="bad spec"),
        pytest.param([CRASHED, CRASHED], Finish.FAIL, None, "crashed", id="crashed too often"),
        pytest.param([CRASHED, interrupted(0), CRASHED], Finish.FAIL, None, "crashed", id="crashes add up"),
        pytest.param([interrupted()] * 3, Finish.FAIL, None, "interrupted", id="interrupted without an epoch"),
        pytest.param(
            [interrupted(), interrupted(), failed(EndKind.NOT_LAUNCHED), interrupted()],
            Finish.FAIL,
            None,
            "interrupted",
            id="a launch that failed is no progress",
        ),
        pytest.param([CRASHED, ended(Outcome.COMPLETED, 0)], Finish.COMPLETE, 0.5, "completed", id="crash, completed"),
    ],
)
def test_a_trial_is_over_when(history, finish, value, outcome):
    transition = decide(*history)

    assert isinstance(transition, Tell)
    assert (transition.finish, transition.value, transition.outcome) == (finish, value, outcome)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([ended(Outcome.PAUSED, 0)], id="paused"),
        pytest.param([CRASHED], id="crashed once"),
        pytest.param([interrupted()], id="interrupted"),
        pytest.param([interrupted()] * 2, id="interrupted twice"),
        pytest.param([failed(EndKind.NOT_LAUNCHED)] * 20, id="not launched"),
        pytest.param([interrupted(), interrupted(), interrupted(0)], id="interrupted after an epoch at last"),
        pytest.param([interrupted(), interrupted(), CRASHED, interrupted()], id="not interrupted in a row"),
        pytest.param([failed(EndKind.SUPERSEDED, exit_code=4)], id="superseded"),
        pytest.param([ABANDONED] * 20, id="abandoned by many drivers"),
        pytest.param([ended(Outcome.PAUSED)] * 20, id="paused many times"),
    ],
)
def test_a_trial_goes_on_when(history):
    assert isinstance(decide(*history), TryAgain)


def test_a_trial_that_was_abandoned_goes_on_and_says_so():
    transition = decide(ABANDONED)

    assert isinstance(transition, TryAgain)
    assert transition.reason == "its driver ended before it"


def test_a_full_disk_is_no_fault_of_the_trial_and_stops_the_study():
    transition = decide(CRASHED, failed(EndKind.DISK_FULL, exit_code=5), crash_retries=0)

    assert isinstance(transition, Halt)
    assert "No space left" in transition.reason


def test_a_bad_specification_is_not_tried_again_however_many_retries_there_are():
    assert isinstance(decide(failed(EndKind.BAD_SPEC, exit_code=2), crash_retries=100), Tell)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_crashing_trial_gets_the_retries_that_the_config_grants(retries):
    attempts = [CRASHED] * retries

    assert not attempts or isinstance(decide(*attempts, crash_retries=retries), TryAgain)
    assert isinstance(decide(*attempts, CRASHED, crash_retries=retries), Tell)


def test_the_value_is_the_objective_of_the_last_epoch():
    result = TrialResult(Outcome.COMPLETED, 2)
    end = AttemptEnd(EndKind.ENDED, 0, 1.0, result, (*epochs(0, f1_macro=0.9), *epochs(1, f1_micro=0.3, f1_macro=0.2)))

    assert next_transition([end], "f1_micro", 0).value == 0.3
    assert next_transition([end], "f1_macro", 0).value == 0.2


def test_a_trial_whose_last_attempt_had_nothing_left_to_train_has_the_value_of_the_one_before():
    assert decide(interrupted(0, 1), ended(Outcome.COMPLETED)).value == 0.5


def test_an_epoch_that_two_attempts_trained_counts_as_the_later_one_says():
    first = failed(EndKind.INTERRUPTED, 0, 1)
    second = ended(Outcome.COMPLETED, 1, 2, f1_micro=0.7)

    merged = merge_epochs([first, second])

    assert [metrics.epoch for metrics in merged] == [0, 1, 2]
    assert [metrics.f1_micro for metrics in merged] == [0.5, 0.7, 0.7]


def test_a_failure_says_what_the_log_said():
    log = "INFO starting\nTraceback (most recent call last):\n  ...\nValueError: width=0; it must be 1 or more.\n"

    transition = decide(failed(EndKind.CRASHED, log_tail=log), crash_retries=0)

    assert "ValueError: width=0; it must be 1 or more." in transition.reason


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("killed\n\n", "killed"),
        ("------\nThere are not enough slots.\n------\n", "There are not enough slots."),
        ("error: the disk is full\nmpirun: a rank has failed", "the disk is full"),
        ("KeyError: 'a'\nValueError: b\n-----\nmpirun detected", "ValueError: b"),
        ("tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM\nbye", None),
        ("error: ours\nValueError: theirs", "ours"),
    ],
)
def test_the_cause_is_the_line_that_a_person_should_read_first(log, line):
    expected = "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM" if line is None else line

    assert cause(log) == expected


attempts_without_a_result = st.sampled_from([EndKind.INTERRUPTED, EndKind.SUPERSEDED, EndKind.ABANDONED])


@given(kinds=st.lists(attempts_without_a_result, min_size=1, max_size=50))
def test_interruptions_never_count_as_long_as_each_attempt_finishes_a_further_epoch(kinds: Sequence[EndKind]):
    history = [failed(kind, epoch) for epoch, kind in enumerate(kinds)]

    assert isinstance(decide(*history, crash_retries=0), TryAgain)


@given(epochs_each_time=st.integers(0, 5), before=st.integers(1, 5))
def test_a_trial_that_is_interrupted_at_the_same_place_again_and_again_is_given_up(epochs_each_time, before):
    same_place = interrupted(*range(epochs_each_time))
    history = [same_place] * (before + MAX_INTERRUPTIONS_WITHOUT_PROGRESS)

    assert isinstance(decide(*history), Tell)


@given(
    st.lists(st.sampled_from([interrupted(), interrupted(0), CRASHED, ABANDONED, ended(Outcome.PAUSED)]), max_size=20)
)
def test_whatever_came_before_a_trial_that_completes_is_complete(before):
    transition = decide(*before, ended(Outcome.COMPLETED, 0, 1))

    assert isinstance(transition, Tell)
    assert transition.finish is Finish.COMPLETE


@given(retries=st.integers(0, 5), others=st.integers(0, 20))
def test_only_crashes_use_up_the_retries(retries, others):
    history = [item for _ in range(retries) for item in (CRASHED, *[ABANDONED] * others)]

    assert isinstance(decide(*history, ABANDONED, crash_retries=retries), TryAgain)
    assert isinstance(decide(*history, CRASHED, crash_retries=retries), Tell)
