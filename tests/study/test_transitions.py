"""What follows from the end of an attempt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from storage.protocol.attempts import AttemptEnd, Failure, merge_epochs
from storage.protocol.records import EpochMetrics, Outcome, TrialResult
from study.halving import Verdict
from study.transitions import (
    MAX_PAUSES_WITHOUT_PROGRESS,
    Halt,
    Hold,
    Tell,
    Transition,
    TryAgain,
    next_transition,
)

CRASH_RETRIES = 1
INTERRUPTION_RETRIES = 2


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


def ended(outcome: Outcome, *numbers: int, reason: str = "", done: int | None = None, **scores: float) -> AttemptEnd:
    """By a result. As older versions wrote it, without the epochs of the attempts before it."""
    result = TrialResult(outcome, (max(numbers) + 1 if numbers else 0) if done is None else done, reason)
    return AttemptEnd(result, wall_s=1.0, epochs=epochs(*numbers, **scores))


def failed(failure: Failure, *numbers: int, exit_code: int = 1, reason: str = "why") -> AttemptEnd:
    return AttemptEnd(None, failure, reason, exit_code, 1.0, epochs(*numbers))


def interrupted(*numbers: int) -> AttemptEnd:
    return failed(Failure.INTERRUPTED, *numbers, exit_code=137)


def decide(*ends: AttemptEnd, crash_retries: int = CRASH_RETRIES) -> Transition:
    return next_transition(ends, "f1_micro", crash_retries, INTERRUPTION_RETRIES)


CRASHED = failed(Failure.CRASHED)
ABANDONED = failed(Failure.ABANDONED, reason="its driver ended before it")


@pytest.mark.parametrize(
    ("history", "finish", "value", "outcome"),
    [
        pytest.param([ended(Outcome.COMPLETED, 0, 1)], TrialState.COMPLETE, 0.5, "completed", id="completed"),
        pytest.param([ended(Outcome.DIVERGED, 0)], TrialState.COMPLETE, 0.0, "diverged", id="diverged"),
        pytest.param([ended(Outcome.PRUNED, 0)], TrialState.PRUNED, None, "pruned", id="pruned"),
        pytest.param([failed(Failure.BAD_SPEC, exit_code=2)], TrialState.FAIL, None, "bad spec", id="bad spec"),
        pytest.param([CRASHED, CRASHED], TrialState.FAIL, None, "crashed", id="crashed too often"),
        pytest.param([CRASHED, interrupted(0), CRASHED], TrialState.FAIL, None, "crashed", id="crashes add up"),
        pytest.param([interrupted()] * 3, TrialState.FAIL, None, "interrupted", id="interrupted without an epoch"),
        pytest.param(
            [interrupted(), interrupted(), failed(Failure.NOT_LAUNCHED), interrupted()],
            TrialState.FAIL,
            None,
            "interrupted",
            id="a launch that failed is no progress",
        ),
        pytest.param([failed(Failure.OUT_OF_MEMORY)] * 2, TrialState.FAIL, None, "out of memory", id="out of memory"),
        pytest.param([ended(Outcome.PAUSED, 0)] * 6, TrialState.FAIL, None, "paused", id="paused without progress"),
        pytest.param(
            [CRASHED, ended(Outcome.COMPLETED, 0)], TrialState.COMPLETE, 0.5, "completed", id="crash, completed"
        ),
    ],
)
def test_a_trial_is_over_when(history, finish, value, outcome):
    transition = decide(*history)

    assert isinstance(transition, Tell)
    assert (transition.state, transition.value, transition.outcome) == (finish, value, outcome)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([ended(Outcome.PAUSED, 0)], id="paused"),
        pytest.param([CRASHED], id="crashed once"),
        pytest.param([interrupted()], id="interrupted"),
        pytest.param([interrupted()] * 2, id="interrupted twice"),
        pytest.param([failed(Failure.NOT_LAUNCHED)] * 20, id="not launched"),
        pytest.param([interrupted(), interrupted(), interrupted(0)], id="interrupted after an epoch at last"),
        pytest.param([interrupted(), interrupted(), CRASHED, interrupted()], id="not interrupted in a row"),
        pytest.param([failed(Failure.SUPERSEDED, exit_code=4)], id="superseded"),
        pytest.param([ABANDONED] * 20, id="abandoned by many drivers"),
        pytest.param([ended(Outcome.PAUSED)] * 4, id="paused some times without progress"),
        pytest.param([ended(Outcome.PAUSED, *range(n)) for n in range(1, 30)], id="paused many times with progress"),
        pytest.param([failed(Failure.UNUSABLE_ALLOCATION)] * 20, id="no allocation was usable"),
        pytest.param([failed(Failure.OUT_OF_MEMORY)], id="out of memory once"),
        pytest.param([ended(Outcome.COMPLETED, 0, done=3)], id="a result whose epochs are lost"),
    ],
)
def test_a_trial_goes_on_when(history):
    assert isinstance(decide(*history), TryAgain)


def test_a_trial_that_was_abandoned_goes_on_and_says_so():
    transition = decide(ABANDONED)

    assert isinstance(transition, TryAgain)
    assert transition.reason == "abandoned: its driver ended before it"


def test_a_full_disk_is_no_fault_of_the_trial_and_stops_the_study():
    transition = decide(CRASHED, failed(Failure.DISK_FULL, exit_code=5), crash_retries=0)

    assert isinstance(transition, Halt)
    assert "No space left" in transition.reason


def test_a_bad_specification_is_not_tried_again_however_many_retries_there_are():
    assert isinstance(decide(failed(Failure.BAD_SPEC, exit_code=2), crash_retries=100), Tell)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_crashing_trial_gets_the_retries_that_the_config_grants(retries):
    attempts = [CRASHED] * retries

    assert not attempts or isinstance(decide(*attempts, crash_retries=retries), TryAgain)
    assert isinstance(decide(*attempts, CRASHED, crash_retries=retries), Tell)


def test_the_value_is_the_objective_of_the_last_epoch():
    result = TrialResult(Outcome.COMPLETED, 2)
    end = AttemptEnd(result, epochs=(*epochs(0, f1_macro=0.9), *epochs(1, f1_micro=0.3, f1_macro=0.2)))

    assert next_transition([end], "f1_micro", 0, 0).value == 0.3
    assert next_transition([end], "f1_macro", 0, 0).value == 0.2


def test_a_result_tells_the_whole_trial_whatever_became_of_its_epochs_files():
    result = TrialResult(Outcome.COMPLETED, 3, epochs=epochs(0, 1, 2, f1_micro=0.7))

    assert decide(interrupted(0), AttemptEnd(result)).value == 0.7
    assert [metrics.f1_micro for metrics in merge_epochs([interrupted(0), AttemptEnd(result)])] == [0.7] * 3


def test_a_result_whose_epochs_are_lost_is_a_crash_that_says_so():
    lost = ended(Outcome.COMPLETED, 0, done=3)

    transition = decide(lost, lost)

    assert isinstance(transition, Tell)
    assert (transition.state, transition.outcome) == (TrialState.FAIL, "crashed")
    assert "its result says 3 epochs, and 1 are in its files" in transition.reason


def test_a_trial_whose_last_attempt_had_nothing_left_to_train_has_the_value_of_the_one_before():
    assert decide(interrupted(0, 1), ended(Outcome.COMPLETED, done=2)).value == 0.5


def test_an_epoch_that_two_attempts_trained_counts_as_the_later_one_says():
    first = failed(Failure.INTERRUPTED, 0, 1)
    second = ended(Outcome.COMPLETED, 1, 2, f1_micro=0.7)

    merged = merge_epochs([first, second])

    assert [metrics.epoch for metrics in merged] == [0, 1, 2]
    assert [metrics.f1_micro for metrics in merged] == [0.5, 0.7, 0.7]


def test_a_failure_says_why():
    transition = decide(failed(Failure.CRASHED, reason="ValueError: width=0 (exit code 1)"), crash_retries=0)

    assert transition.reason == "ValueError: width=0 (exit code 1), attempt 1"


def test_a_checkpoint_of_another_trial_stops_the_study():
    transition = decide(failed(Failure.BAD_CHECKPOINT, reason="it is of study a, this one is b"))

    assert transition == Halt("it is of study a, this one is b")


@pytest.mark.parametrize("failure", Failure)
def test_every_failure_leads_somewhere(failure):
    assert isinstance(decide(failed(failure)), Tell | TryAgain | Halt)


attempts_without_a_result = st.sampled_from([Failure.INTERRUPTED, Failure.SUPERSEDED, Failure.ABANDONED])


@given(kinds=st.lists(attempts_without_a_result, min_size=1, max_size=50))
def test_interruptions_never_count_as_long_as_each_attempt_finishes_a_further_epoch(kinds: Sequence[Failure]):
    history = [failed(kind, epoch) for epoch, kind in enumerate(kinds)]

    assert isinstance(decide(*history, crash_retries=0), TryAgain)


@given(epochs_each_time=st.integers(0, 5))
def test_a_trial_that_is_paused_at_the_same_place_again_and_again_is_given_up(epochs_each_time):
    same_place = ended(Outcome.PAUSED, *range(epochs_each_time))

    assert isinstance(decide(*[same_place] * (MAX_PAUSES_WITHOUT_PROGRESS + 1)), Tell)


@given(epochs_each_time=st.integers(0, 5), before=st.integers(1, 5))
def test_a_trial_that_is_interrupted_at_the_same_place_again_and_again_is_given_up(epochs_each_time, before):
    same_place = interrupted(*range(epochs_each_time))
    history = [same_place] * (before + INTERRUPTION_RETRIES + 1)

    assert isinstance(decide(*history), Tell)


@given(
    st.lists(st.sampled_from([interrupted(), interrupted(0), CRASHED, ABANDONED, ended(Outcome.PAUSED)]), max_size=20)
)
def test_whatever_came_before_a_trial_that_completes_is_complete(before):
    transition = decide(*before, ended(Outcome.COMPLETED, 0, 1, done=2))

    assert isinstance(transition, Tell)
    assert transition.state is TrialState.COMPLETE


@given(retries=st.integers(0, 5), others=st.integers(0, 20))
def test_only_crashes_use_up_the_retries(retries, others):
    history = [item for _ in range(retries) for item in (CRASHED, *[ABANDONED] * others)]

    assert isinstance(decide(*history, ABANDONED, crash_retries=retries), TryAgain)
    assert isinstance(decide(*history, CRASHED, crash_retries=retries), Tell)


NOT_OVER = [
    ended(Outcome.PRUNED, 0),
    ended(Outcome.PAUSED, 0),
    ended(Outcome.HELD, 0),
    interrupted(0),
    CRASHED,
    failed(Failure.BAD_CHECKPOINT),
]


@pytest.mark.parametrize("end", NOT_OVER)
def test_a_verdict_is_carried_out_however_the_ranks_have_ended_meanwhile(end):
    stop = next_transition([end], "f1_micro", 1, 2, Verdict.STOP, "rung 0")
    hold = next_transition([end], "f1_micro", 1, 2, Verdict.HOLD, "rung 0")

    assert stop == Tell(TrialState.PRUNED, None, "pruned", "rung 0")
    assert hold == Hold("rung 0")


@pytest.mark.parametrize("verdict", [Verdict.STOP, Verdict.HOLD])
@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.DIVERGED])
def test_a_trial_that_was_over_before_it_heard_of_its_verdict_is_complete(outcome, verdict):
    end = ended(outcome, 0, 1, done=2)

    assert next_transition([end], "f1_micro", 1, 2, verdict, "rung 0") == decide(end)
    assert decide(end).state is TrialState.COMPLETE


def test_a_trial_that_has_been_promoted_while_it_stopped_goes_on():
    assert decide(ended(Outcome.HELD, 0)) == TryAgain("held at its rung")


@given(st.integers(1, 30))
def test_a_trial_that_is_held_again_and_again_is_never_given_up(times):
    assert isinstance(decide(*[ended(Outcome.HELD, 0)] * times, interrupted(0)), TryAgain)
