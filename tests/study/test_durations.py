"""How much walltime a trial needs, by what the study has seen."""

from __future__ import annotations

from dataclasses import replace

from storage.protocol.attempts import AttemptEnd, Failure
from storage.protocol.records import Outcome, TrialResult
from study.durations import Durations
from tests.storage.protocol.example_records import METRICS

GRACE_S, WALLTIME_S = 10.0, 3600.0


def end(wall_s: float, *epochs_s: float) -> AttemptEnd:
    epochs = tuple(replace(METRICS, wall_s=epoch_s) for epoch_s in epochs_s)
    return AttemptEnd(None, Failure.INTERRUPTED, "lost", wall_s=wall_s, epochs=epochs)


def needed(*ends: AttemptEnd) -> float:
    durations = Durations()
    for one in ends:
        durations.learn(one)
    return durations.needed_walltime_s(GRACE_S, WALLTIME_S)


def test_before_anything_is_known_a_checkpoint_must_fit_twice() -> None:
    assert needed() == 2 * GRACE_S


def test_it_is_the_longest_start_and_the_longest_epoch_so_far_and_a_checkpoint() -> None:
    assert needed(end(100, 30, 40), end(60, 50)) == (100 - 70) + 50 + 2 * GRACE_S


def test_an_attempt_without_an_epoch_says_nothing() -> None:
    assert needed(end(500)) == needed()


def test_an_epoch_that_is_longer_than_a_job_is_trained_in_several() -> None:
    assert needed(end(8000, 7000)) == 0.9 * WALLTIME_S


def test_an_attempt_that_was_paused_before_its_first_epoch_says_how_long_a_start_takes_at_the_least() -> None:
    paused = AttemptEnd(TrialResult(Outcome.PAUSED, 0), wall_s=500.0)

    assert needed(paused) == 500 + 2 * GRACE_S
