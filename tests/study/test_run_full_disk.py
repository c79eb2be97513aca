"""A disk that fills up in mid-study: one clear error, and nothing of what had been stored is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from storage.protocol.files import has_space
from tests.small_disk import SmallDisk, mount_small_disk
from tests.study.driver import WITHIN_S, Finished, new_workplace_on, slow_training
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

EPOCHS = 30


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[SmallDisk]:
    with mount_small_disk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@dataclass(frozen=True)
class FullDiskStudy:
    """Two trials, of which the disk filled up while the second one trained. The database is on another disk."""

    first: Finished
    """One trial; there was room."""
    full: Finished
    """The second one; after its second epoch there was none."""
    trials_when_full: list[FrozenTrial]
    survivors: list[psutil.Process]
    still_full: Finished
    """The same command, with no room yet."""
    database_full: Finished
    """The same, with its database on the full disk."""
    last: Finished
    """The same command, with room again."""
    trials: list[FrozenTrial]
    epochs_by_attempt: list[list[int]]


@pytest.fixture(scope="module")
def study(disk, tmp_path_factory) -> FullDiskStudy:
    database = f"sqlite:///{tmp_path_factory.mktemp('other_disk') / 'study.db'}"
    workplace = new_workplace_on(disk, *slow_training(EPOCHS))
    elsewhere = ("--storage", database)
    first = workplace.run(*elsewhere, "--trials", "1")
    with workplace.start(*elsewhere, "--trials", "2") as driver:
        driver.wait_for_epochs(trial=1, attempt=1, count=2)
        disk.fill()
        full = driver.finish()
        trials_when_full = workplace.trials(database)
        wait_until(lambda: not workplace.rank_processes(), WITHIN_S)
        survivors = workplace.rank_processes()
    still_full = workplace.run(*elsewhere, "--trials", "2")
    database_full = workplace.run("--trials", "2")
    disk.make_room()
    last = workplace.run(*elsewhere, "--trials", "2")
    epochs = [[m.epoch for m in attempt.read_metrics()] for attempt in workplace.trial_dir(1).attempts()]
    return FullDiskStudy(
        first,
        full,
        trials_when_full,
        survivors,
        still_full,
        database_full,
        last,
        workplace.trials(database),
        epochs,
    )


@pytest.mark.parametrize("when", ["full", "still_full"])
def test_a_full_disk_ends_the_study_with_one_clear_error(study, when):
    assert study.first.exit_code == 0, study.first.output
    finished: Finished = getattr(study, when)

    assert finished.exit_code == 2, finished.output
    assert "No space left on device" in finished.output
    assert re.search(r"[Mm]ake room[;,] then run the same command", finished.output)
    assert "Traceback" not in finished.output


def test_a_database_on_a_full_disk_is_told_as_such(study):
    assert study.database_full.exit_code == 2, study.database_full.output
    assert "error: " in study.database_full.output
    assert "Traceback" not in study.database_full.output


def test_a_study_whose_database_shares_the_full_disk_goes_on_when_there_is_room(disk):
    workplace = new_workplace_on(disk, *slow_training(EPOCHS), "--trials", "1", "--name", "together")
    with workplace.start() as driver:
        wait_until(lambda: "epoch 2/" in driver.output, WITHIN_S)
        disk.fill()
        full = driver.finish()
    disk.make_room()
    last = workplace.run()

    assert full.exit_code == 2, full.output
    assert "run the same command to go on" in full.output
    assert "Traceback" not in full.output
    assert last.exit_code == 0, last.output
    assert "1 completed" in last.output
    assert "started (attempt 2)" in last.output


def test_what_was_stored_before_the_disk_was_full_is_still_there(study):
    first, second = study.trials_when_full

    assert first.state is TrialState.COMPLETE
    assert sorted(first.intermediate_values) == list(range(EPOCHS))
    assert second.state is TrialState.RUNNING
    assert len(second.intermediate_values) >= 2


def test_no_rank_outlives_the_study(study):
    assert study.survivors == []


def test_whether_there_is_room_is_found_out_by_writing(disk):
    assert has_space(disk.outside_path)
    disk.fill()
    try:
        assert not has_space(disk.outside_path)
    finally:
        disk.make_room()
    assert has_space(disk.outside_path)


def test_with_room_again_the_same_command_goes_on_where_the_disk_was_full(study):
    assert study.last.exit_code == 0, study.last.output
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert sorted(study.trials[1].intermediate_values) == list(range(EPOCHS))
    *before, last = study.epochs_by_attempt
    assert last[0] >= 1
    assert last[0] <= max(epoch for epochs in before for epoch in epochs) + 1
