"""A few of the kills that `python -m tests.chaos` has many of."""

from __future__ import annotations

from tests.chaos.study_under_fire import StudyUnderFire, place

TRIALS, EPOCHS, KILLS = 2, 60, 3


def test_a_study_whose_processes_are_killed_ends_as_one_that_was_left_alone(tmp_path):
    undisturbed = place(tmp_path / "undisturbed", TRIALS, EPOCHS)
    assert undisturbed.run().exit_code == 0

    outcome = StudyUnderFire(tmp_path / "under-fire", TRIALS, EPOCHS, seed=1, mean_pause_s=6.0).run(KILLS)

    assert outcome.exit_code == 0, outcome.output
    assert outcome.kills
    assert not outcome.differences(undisturbed)
