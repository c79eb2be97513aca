"""The loop where trials have more ranks at each rung: real ledger, judge and files, ranks that end where they must."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.database import schema
from storage.protocol.attempts import AttemptRequest
from tests.study.pruned_study import PrunedStudy
from tests.study.test_loop_pruning import EPOCHS, PROMOTES, by_quality

GROWS = (*PROMOTES, "resources.nodes_per_rung=[1, 2, 4]")
AT_ONCE = 4
RANKS = 2
"""Of a node."""


def new_study(folder: Path, *overrides: str, epochs: int = EPOCHS, lag: int = 0) -> PrunedStudy:
    return PrunedStudy(folder, by_quality, overrides, epochs, slots=AT_ONCE, lag=lag)


def nodes_of_attempts(study: PrunedStudy, trial: int) -> list[int | None]:
    return [row.nodes for row in schema.read_attempts(study.trials[trial].user_attrs)]


def test_the_survivors_have_more_nodes_at_each_rung(tmp_path):
    study = new_study(tmp_path, *GROWS)

    study.drive()

    assert study.states.count("C") == 1
    best = study.states.index("C")
    assert nodes_of_attempts(study, best) == [1, 2, 4]
    assert {tuple(nodes_of_attempts(study, trial)) for trial in range(9)} == {(1,), (1, 2), (1, 2, 4)}


def test_who_goes_on_at_a_rung_waits_for_nobody_but_the_ranks(tmp_path):
    """A verdict says so, and no promotion: trial 1 is the best of three as it comes to its rung."""
    study = new_study(tmp_path, *GROWS)

    study.drive()

    went_on = [number for number, row in study.verdicts() if row.verdict == "go on"]
    assert went_on
    assert f"trial {went_on[0]} waits: held at its rung" in study.view.said


def test_no_more_ranks_are_under_way_than_there_are_and_the_large_trial_is_not_passed_over(tmp_path):
    study = PrunedStudy(
        tmp_path,
        lambda trial, epoch: trial * 7 % 20 / 20 * (epoch + 1) / EPOCHS,
        (*GROWS, "study.trials=20"),
        EPOCHS,
        slots=AT_ONCE,
    )
    under_way: list[int] = []

    def note(request: AttemptRequest) -> None:
        under_way.append(sum(running.layout.world_size for running in study.pool.running.values()))

    study.on_start = note
    study.drive()

    assert max(under_way) == AT_ONCE * RANKS
    assert sum(nodes_of_attempts(study, trial)[-1] == 4 for trial in range(20)) >= 2


def test_no_epoch_is_trained_twice(tmp_path):
    study = new_study(tmp_path, *GROWS, lag=1)

    study.drive()

    assert len(study.ranks.trained) == len(set(study.ranks.trained))


def test_the_nodes_that_an_attempt_had_are_charged(tmp_path):
    study = new_study(tmp_path, *GROWS, "budget.node_hours=100")

    study.drive()

    best = study.trials[study.states.index("C")]
    # Three attempts of 36 s.
    assert best.user_attrs["node_hours"] == pytest.approx((1 + 2 + 4) * 36 / 3600)
    total = sum(trial.user_attrs["node_hours"] for trial in study.trials)
    assert study.loop.describe_spent().startswith(f"{total:.4g} of 100 node-hours")


def test_a_trial_whose_newest_checkpoint_is_lost_goes_back_to_the_nodes_of_the_one_before(tmp_path):
    study = new_study(tmp_path, *GROWS)
    lost: list[AttemptRequest] = []

    def lose(request: AttemptRequest) -> None:
        # The ranks of the second rung find the checkpoint of the beginning.
        if request.layout.world_size == 2 * RANKS and not lost:
            lost.append(request)
            study.ranks.history[request.trial_number].clear()

    study.on_start = lose
    study.drive()

    assert nodes_of_attempts(study, lost[0].trial_number)[:3] == [1, 2, 1]
    assert study.states.count("C") == 1
    assert "F" not in study.states


def test_after_a_sigkill_the_same_is_decided_as_without_one(tmp_path):
    # One at a time: so is the order in which trials come to their rungs the same, killed or not.
    shapes = "resources.nodes_per_rung=[3, 4]"
    small = (*PROMOTES, shapes, "study.trials=5", "pruner.rungs=[1, 3]", "pruner.factor=2")
    undisturbed = new_study(tmp_path / "undisturbed", *small, epochs=5)
    undisturbed.drive()
    assert undisturbed.states.count("C") >= 1

    for writes in range(1, undisturbed.storage.writes, 5):
        study = new_study(tmp_path / str(writes), *small, epochs=5)
        assert study.drive_and_die(writes, ranks_train_on=2)
        assert study.verdicts() == undisturbed.verdicts(), f"killed after write {writes}: {study.view.said}"
        assert study.states == undisturbed.states, f"killed after write {writes}: {study.view.said}"
