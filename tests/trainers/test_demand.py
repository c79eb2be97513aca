"""When ranks make room and when they give way, by what lies in their attempt's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.protocol.records import Outcome
from storage.protocol.trial_dir import AttemptDir, TrialDir
from tests.trainers.one_rank import OneRank
from tests.waiting import wait_until
from trainers.demand import Demand, Demands
from trainers.faults import SupersededError


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptDir:
    return TrialDir(tmp_path / "trial").new_attempt()


def demands(attempt: AttemptDir, is_interrupted: bool = False) -> Demands:
    return Demands(attempt, OneRank(), lambda: is_interrupted)


def is_superseded(agreed: Demands) -> bool:
    try:
        agreed.agree()
    except SupersededError:
        return True
    return False


def test_ranks_that_nobody_asks_for_anything_go_on(attempt):
    assert demands(attempt).agree() is Demand.NONE
    assert demands(attempt).agree_after_epoch() is None


def test_an_interrupted_rank_asks_for_a_pause_within_the_epoch_and_after_it(attempt):
    assert demands(attempt, is_interrupted=True).agree() is Demand.PAUSE
    assert demands(attempt, is_interrupted=True).agree_after_epoch() is Outcome.PAUSED


def test_a_newer_attempt_ends_the_older_ones_ranks_and_the_error_names_theirs(attempt):
    attempt.trial.new_attempt()

    with pytest.raises(SupersededError, match=r"attempt-01 is superseded by a newer attempt"):
        demands(attempt).agree()


def test_a_newer_attempt_is_no_reason_to_end_for_its_own_ranks(attempt):
    assert demands(attempt.trial.new_attempt()).agree() is Demand.NONE


def test_ranks_that_are_to_pause_and_to_give_way_give_way(attempt):
    attempt.trial.new_attempt()

    # A pause would write a checkpoint.
    with pytest.raises(SupersededError):
        demands(attempt, is_interrupted=True).agree()


def test_a_newer_attempt_is_noticed_while_the_older_one_trains(attempt):
    agreed = demands(attempt)
    assert agreed.agree() is Demand.NONE

    attempt.trial.new_attempt()

    wait_until(lambda: is_superseded(agreed), within_s=10)


def test_at_an_epochs_end_a_newer_attempt_is_noticed_at_once(attempt):
    agreed = demands(attempt)
    assert agreed.agree() is Demand.NONE
    attempt.trial.new_attempt()

    # Right after a look that found nothing, and before a checkpoint is written.
    with pytest.raises(SupersededError):
        agreed.agree_after_epoch()


@pytest.mark.parametrize("outcome", [Outcome.PRUNED, Outcome.HELD])
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_requested_stop_ends_the_ranks_after_the_epoch_and_not_within_it(attempt, is_interrupted, outcome):
    attempt.request_stop(outcome)

    assert demands(attempt).agree() is Demand.NONE
    assert demands(attempt, is_interrupted).agree_after_epoch() is outcome


def test_only_the_first_rank_looks_at_the_disk(attempt):
    attempt.trial.new_attempt()

    assert Demands(attempt, OneRank(rank=1, is_first=False), lambda: False).agree() is Demand.NONE
