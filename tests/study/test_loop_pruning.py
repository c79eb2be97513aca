"""The loop with a pruner: real ledger, real judge and real files, ranks that train as a function says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.study.pruned_study import DriverKilledError, PrunedStudy, Scores

# The best of nine, at every epoch: trials 4, 1 and 7.
QUALITY = (0.3, 0.8, 0.2, 0.4, 0.9, 0.1, 0.5, 0.7, 0.6)
ASHA = ("study.trials=9", "pruner.name=asha", "pruner.rungs=[1, 3]", "pruner.factor=3")
PROMOTES = (*ASHA, "pruner.promotes=true")
EPOCHS = 9

NewStudy = Callable[..., PrunedStudy]


def by_quality(trial: int, epoch: int) -> float:
    return QUALITY[trial] * (epoch + 1) / EPOCHS


@pytest.fixture
def new_study(tmp_path: Path) -> NewStudy:
    count = 0

    def make(*overrides: str, scores: Scores = by_quality, epochs: int = EPOCHS, **options) -> PrunedStudy:
        nonlocal count
        count += 1
        return PrunedStudy(tmp_path / str(count), scores, overrides, epochs, **options)

    return make


def test_a_trial_that_is_not_among_the_best_at_its_rung_is_pruned_there(new_study):
    study = new_study(*ASHA)

    study.drive()

    assert study.states == "CCPPCPPPP"
    assert [len(study.ranks.history[n]) for n in range(9)] == [9, 9, 1, 1, 9, 1, 1, 1, 1]


def test_a_pruned_trial_has_the_value_that_it_was_stopped_for_and_says_why(new_study):
    study = new_study(*ASHA)

    study.drive()

    trial = study.trials[2]
    assert trial.value == trial.intermediate_values[0] == by_quality(2, 0)
    assert trial.user_attrs["outcome"] == "pruned"
    assert trial.user_attrs["reason"] == "rung 0, f1_micro 0.0222 after epoch 1"


def test_ranks_that_train_on_while_the_verdict_travels_are_pruned_by_the_same_verdict(new_study):
    at_once, late = new_study(*ASHA), new_study(*ASHA, lag=2)

    at_once.drive()
    late.drive()

    assert late.verdicts() == at_once.verdicts()
    assert late.states == at_once.states
    assert len(late.ranks.history[2]) == 3


@pytest.mark.parametrize("overrides", [ASHA, PROMOTES])
def test_what_ranks_train_while_the_verdict_travels_is_no_part_of_the_trials_result(new_study, overrides):
    at_once, late = new_study(*overrides), new_study(*overrides, lag=1)

    at_once.drive()
    late.drive()

    assert len(late.ranks.trained) > len(at_once.ranks.trained)
    results = [
        [(trial.values, trial.intermediate_values, trial.user_attrs["f1_micro"]) for trial in study.trials]
        for study in (at_once, late)
    ]
    assert results[0] == results[1]
    # Of the cost it is.
    assert len(late.trials[2].user_attrs["epochs:f1_micro"]) == 2


def test_a_trial_that_is_over_before_it_hears_of_its_verdict_is_complete(new_study):
    study = new_study(*ASHA, lag=EPOCHS)

    study.drive()

    assert study.states == "C" * 9
    assert study.pool.stopped


def test_without_a_pruner_nobody_is_judged(new_study):
    study = new_study("study.trials=4")

    study.drive()

    assert study.states == "CCCC"
    assert study.verdicts() == []


def test_the_median_pruner_stops_the_worse_half_once_enough_trials_are_complete(new_study):
    study = new_study("study.trials=9", "pruner.name=median", "pruner.startup_trials=3", "pruner.warmup_epochs=2")

    study.drive()

    assert study.states == "CCCCCPCCC"
    assert len(study.ranks.history[5]) == 3


def test_epochs_of_a_new_batch_size_get_no_verdict_in_their_grace_time(new_study):
    study = new_study(*ASHA, "pruner.grace_epochs=2", batch_size=lambda epoch: 16 if epoch < 2 else 32)

    study.drive()

    # The second rung, after the third epoch, is judged when two epochs of the larger batch are over.
    assert [row.epoch for _, row in study.verdicts() if row.rung == 1] == [4, 4, 4]


def test_an_epoch_that_is_trained_twice_decides_nothing_twice(new_study):
    values = iter([0.9] + [0.0] * 100)
    study = new_study(*ASHA, "study.trials=1", scores=lambda trial, epoch: next(values))
    study.storage.dies_at_attribute = "verdicts"
    with pytest.raises(DriverKilledError):
        study.drive()
    study.pool.die(epochs=0)
    study.ranks.history[0].clear()

    study.drive()

    assert study.ranks.trained.count((0, 0)) == 2
    assert [(row.epoch, row.value) for _, row in study.verdicts()] == [(0, 0.9), (2, 0.0)]
    assert study.states == "C"


def test_held_trials_wait_while_others_train_and_the_best_are_promoted(new_study):
    study = new_study(*PROMOTES)

    study.drive()

    # Of nine, three pass the first rung and one the second.
    assert study.states == "PPPPCPPPP"
    promoted = [(number, row.rung) for number, row in study.verdicts() if row.promoted or row.verdict == "go on"]
    assert sorted(promoted) == [(1, 0), (4, 0), (4, 1), (7, 0)]
    assert study.trials[0].user_attrs["reason"].startswith("never promoted: rung 0, f1_micro 0.0333 after epoch 1")
    assert study.trials[1].user_attrs["reason"].startswith("never promoted: rung 1")


def test_no_epoch_is_trained_twice_when_a_trial_is_held_and_promoted(new_study):
    study = new_study(*PROMOTES, lag=1)

    study.drive()

    assert len(study.ranks.trained) == len(set(study.ranks.trained))


def test_a_study_too_small_for_a_promotion_still_trains_its_best_trial_to_the_end(new_study):
    study = new_study(*PROMOTES, "study.trials=2")

    study.drive()

    assert study.states == "PC"


def test_a_trial_held_several_times_is_not_a_trial_that_gets_nowhere(new_study):
    study = new_study(
        "study.trials=8", "pruner.name=asha", "pruner.rungs=[1,2,3,4,5,6,7]", "pruner.factor=2", "pruner.promotes=true"
    )

    study.drive()

    assert "F" not in study.states
    assert "C" in study.states


@pytest.mark.parametrize(("overrides", "ranks_train_on"), [(ASHA, 0), (PROMOTES, 0), (PROMOTES, 2)])
def test_after_a_sigkill_at_any_moment_the_same_is_decided_as_without_one(new_study, overrides, ranks_train_on):
    small = (*overrides, "study.trials=5", "pruner.rungs=[1, 2]", "pruner.factor=2")
    undisturbed = new_study(*small, epochs=4)
    undisturbed.drive()
    assert undisturbed.states.count("P") > 1

    for writes in range(1, undisturbed.storage.writes):
        study = new_study(*small, epochs=4)
        assert study.drive_and_die(writes, ranks_train_on)
        assert study.verdicts() == undisturbed.verdicts(), f"killed after write {writes}: {study.view.said}"
        assert study.states == undisturbed.states, f"killed after write {writes}: {study.view.said}"


@pytest.mark.parametrize(("overrides", "states"), [(ASHA, "CCPPCPPPP"), (PROMOTES, "PPPPCPPPP")])
def test_a_node_that_is_lost_while_the_verdict_travels_changes_nothing(new_study, overrides, states):
    study = new_study(*overrides, is_lost_when_asked=True)

    study.drive()

    assert study.states == states
    assert len(study.ranks.trained) == len(set(study.ranks.trained))
