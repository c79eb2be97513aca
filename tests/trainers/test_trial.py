"""Whole trials of two ranks under mpirun, started, held, killed and resumed as the product does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest

from storage.protocol.attempts import AttemptEnd, Failure, merge_epochs
from storage.protocol.records import ComponentSpec, Outcome
from storage.protocol.trial_dir import TrialDir
from tests.trainers.tiny_trial import (
    DEADLINE_S,
    LARGE,
    READS_PER_EPOCH,
    SMALL,
    TRAIN,
    Run,
    held_ranks,
    open_attempt,
    processes_of,
    release_ranks,
    run_program,
    tiny_spec,
    without_times,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

SPEC = tiny_spec()


class Resumed(NamedTuple):
    trial: TrialDir
    first: AttemptEnd
    left_over: list[psutil.Process]
    """Of the first attempt, after its end."""
    checkpoint_between: dict[str, np.ndarray]
    heartbeat_between: float | None
    second: AttemptEnd

    @property
    def progress_between(self) -> dict[str, Any]:
        return json.loads(str(self.checkpoint_between["progress"]))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Run:
    run = Run(open_attempt(tmp_path_factory.mktemp("trial"), SPEC))
    run.end()
    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Resumed:
    """Rank 1 was killed in the middle of epoch 2, after the switch."""
    trial_dir = tmp_path_factory.mktemp("trial")
    run = Run(open_attempt(trial_dir, SPEC, hold_at_read=2 * READS_PER_EPOCH + 4))
    os.kill(held_ranks(run.request)[1], signal.SIGKILL)
    return resume(run)


@pytest.fixture(scope="module")
def paused(tmp_path_factory) -> Resumed:
    """Asked to pause in the middle of epoch 1, before the switch; the launcher gets SIGUSR1."""
    run = Run(open_attempt(tmp_path_factory.mktemp("trial"), SPEC, hold_at_read=READS_PER_EPOCH + 4))
    held_ranks(run.request)
    wait_until(run.attempt.read_heartbeat, DEADLINE_S)
    run.stop.request(Outcome.PAUSED)
    return resume(run)


class FallenBack(NamedTuple):
    trial: TrialDir
    end: AttemptEnd
    log: str


@pytest.fixture(scope="module")
def fallen_back(tmp_path_factory, killed) -> FallenBack:
    """The killed trial once more, with the second attempt's checkpoint, the newest, cut short before the third."""
    trial = TrialDir(tmp_path_factory.mktemp("trials") / "trial")
    shutil.copytree(killed.trial.path, trial.path)
    newest = trial.attempt(2).checkpoint_path
    newest.write_bytes(newest.read_bytes()[:-100])
    run = Run(open_attempt(trial.path, SPEC))
    return FallenBack(trial, run.end(), run.attempt.log_tail())


def resume(run: Run) -> Resumed:
    trial, first = TrialDir(run.request.trial_dir), run.end()
    left_over, between, heartbeat = processes_of(trial.path), arrays_in(trial), run.attempt.read_heartbeat()
    return Resumed(trial, first, left_over, between, heartbeat, second=Run(open_attempt(trial.path, SPEC)).end())


def arrays_in(trial: TrialDir) -> dict[str, np.ndarray]:
    """Of the newest checkpoint."""
    with np.load(trial.checkpoints()[0]) as checkpoint:
        return dict(checkpoint)


def test_a_trial_trains_all_epochs_and_switches_the_batch_where_it_should(uninterrupted):
    end = uninterrupted.end()

    assert (end.failure, end.reason, end.exit_code, end.log_tail) == (None, "", 0, "")
    assert (end.result.outcome, end.result.epochs_done) == (Outcome.COMPLETED, 4)
    assert [metrics.epoch for metrics in end.epochs] == [0, 1, 2, 3]
    assert [metrics.global_batch_size for metrics in end.epochs] == [SMALL, SMALL, LARGE, LARGE]
    assert [metrics.updates for metrics in end.epochs] == [TRAIN // SMALL] * 2 + [TRAIN // LARGE] * 2
    assert {metrics.samples for metrics in end.epochs} == {TRAIN}


def test_the_result_holds_every_epoch(uninterrupted):
    end = uninterrupted.end()

    assert end.result.epochs == end.epochs
    assert end.result.loader_batches_done == 0


def test_the_learning_rate_does_not_change_at_the_switch(uninterrupted):
    assert {metrics.learning_rate for metrics in uninterrupted.end().epochs} == {np.float32(0.1)}


def test_a_finished_trial_leaves_these_files_and_no_others(uninterrupted):
    trial_dir = uninterrupted.request.trial_dir

    files = {str(path.relative_to(trial_dir)) for path in trial_dir.rglob("*") if path.is_file()}

    of_ranks = ("begun", "checkpoint.npz", "communicator.json", "log.txt", "metrics.jsonl", "result.json")
    of_runner = ("end.json", "exit.json")
    # The first of these are written seconds after the start, and a tiny trial may be done by then.
    files -= {"attempt-01/heartbeat", "attempt-01/lived"}
    assert files == {"spec.json", *(f"attempt-01/{name}" for name in (*of_ranks, *of_runner))}


def test_the_runner_relays_every_epoch_once(uninterrupted):
    assert uninterrupted.relayed == list(uninterrupted.end().epochs)


def test_the_ranks_report_the_data_plane_that_they_use(uninterrupted):
    report = uninterrupted.end().communicator

    assert (report.world_size, len(report.hosts), report.data_plane) == (2, 2, "mpi")
    assert (report.mpi_built, report.mpi_enabled, report.nccl_built, report.gloo_enabled) == (True, True, False, False)
    assert report.versions["mpi"].startswith("Open MPI")


def test_a_killed_rank_takes_the_others_along_and_counts_as_an_interruption(killed):
    assert (killed.first.failure, killed.first.exit_code) == (Failure.INTERRUPTED, 128 + signal.SIGKILL)
    assert killed.first.result is None
    assert "ended by SIGKILL" in killed.first.reason
    assert killed.left_over == []
    assert [metrics.epoch for metrics in killed.first.epochs] == [0, 1]


def test_a_killed_trial_goes_on_from_its_checkpoint_as_if_nothing_had_happened(uninterrupted, killed):
    assert len(killed.progress_between["history"]) == 2
    assert killed.second.result.outcome is Outcome.COMPLETED
    assert without_times(killed.first.epochs + killed.second.epochs) == without_times(uninterrupted.end().epochs)


def test_the_result_of_a_resumed_trial_holds_the_epochs_of_the_attempts_before(uninterrupted, killed, paused):
    for resumed in (killed, paused):
        assert without_times(resumed.second.result.epochs) == without_times(uninterrupted.end().epochs)
        assert merge_epochs([resumed.first, resumed.second]) == list(resumed.second.result.epochs)


def test_the_checkpoints_of_a_trial_lie_with_its_attempts(killed, paused):
    for resumed in (killed, paused):
        attempts = resumed.trial.attempts()
        assert resumed.trial.checkpoints() == [attempt.checkpoint_path for attempt in reversed(attempts)]
        assert len(attempts) == 2


def test_a_trial_that_is_asked_to_pause_does_so_within_the_epoch(paused):
    assert (paused.first.failure, paused.first.exit_code) == (None, 0)
    assert (paused.first.result.outcome, paused.first.result.epochs_done) == (Outcome.PAUSED, 1)
    progress = paused.progress_between
    # The fourth of six loader batches was being read, ahead of the training.
    assert len(progress["history"]) == 1
    assert 1 <= progress["loader_batches"] <= 4
    assert progress["updates"] == 2 * progress["loader_batches"]
    assert paused.first.result.loader_batches_done == progress["loader_batches"]
    assert paused.first.result.epochs == paused.first.epochs


def test_ranks_that_train_show_a_heartbeat_in_seconds_since_they_began(paused):
    assert 0 < paused.heartbeat_between < paused.first.wall_s


def test_a_paused_trial_goes_on_within_the_epoch_as_if_nothing_had_happened(uninterrupted, paused):
    assert [metrics.epoch for metrics in paused.second.epochs] == [1, 2, 3]
    assert without_times(paused.first.epochs + paused.second.epochs) == without_times(uninterrupted.end().epochs)


def test_the_time_of_an_epoch_that_was_paused_is_that_of_both_parts(paused):
    resumed = paused.second.epochs[0]

    assert paused.progress_between["wall_s"] > 0
    assert resumed.wall_s >= paused.progress_between["wall_s"]
    assert resumed.wall_s >= 0.999 * resumed.samples / resumed.samples_per_s


def test_ranks_begin_with_the_same_weights_and_drop_out_by_seeds_of_their_own(tmp_path):
    spec = dataclasses.replace(SPEC, model=ComponentSpec("efficientnet_b0"))
    request = open_attempt(tmp_path / "trial", spec)

    run = run_program("random_states", request.trial_dir)

    assert run.returncode == 0, run.stderr
    (seeds, weights), (seeds_of_rank_1, weights_of_rank_1) = json.loads(run.stdout.splitlines()[-1])
    assert weights == weights_of_rank_1
    assert len(seeds) > 1
    everyone = [*map(tuple, seeds), *map(tuple, seeds_of_rank_1)]
    assert len(set(everyone)) == len(everyone)


def test_one_rank_that_gets_sigterm_has_all_of_them_save_and_pause(tmp_path):
    run = Run(open_attempt(tmp_path / "trial", SPEC, hold_at_read=READS_PER_EPOCH + 4))
    os.kill(held_ranks(run.request)[1], signal.SIGTERM)
    release_ranks(run.request)

    end = run.end()

    assert (end.failure, end.exit_code) == (None, 0)
    assert (end.result.outcome, end.result.epochs_done) == (Outcome.PAUSED, 1)
    assert run.attempt.checkpoint_path.exists()


def test_a_resumed_trial_ends_with_the_same_weights_optimizer_and_moving_statistics(uninterrupted, killed, paused):
    expected = arrays_in(TrialDir(uninterrupted.request.trial_dir))

    for resumed in (killed, paused):
        assert_same_state(arrays_in(resumed.trial), expected)


def test_within_an_epoch_each_rank_has_moving_statistics_of_its_own_to_go_on_with(paused):
    # If they were alike, a checkpoint that gives all ranks the first one's would pass the tests above.
    of_ranks = [value for name, value in paused.checkpoint_between.items() if name.startswith("per_rank/")]

    assert any((value[0] != value[1]).any() for value in of_ranks[1:])


def test_at_an_epochs_end_all_ranks_have_the_averaged_moving_statistics(uninterrupted):
    end = arrays_in(TrialDir(uninterrupted.request.trial_dir))
    # The first one is the sum of losses.
    statistics = sorted(name for name in end if name.startswith("per_rank/"))[1:]

    assert statistics
    for name in statistics:
        np.testing.assert_array_equal(end[name][0], end[name][1], err_msg=name)


def test_a_trial_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(uninterrupted, killed, fallen_back):
    assert f"{fallen_back.trial.attempt(2).checkpoint_path} is damaged" in fallen_back.log
    assert [metrics.epoch for metrics in fallen_back.end.epochs] == [2, 3]
    assert without_times(fallen_back.end.result.epochs) == without_times(uninterrupted.end().epochs)
    assert_same_state(arrays_in(fallen_back.trial), arrays_in(TrialDir(uninterrupted.request.trial_dir)))


def test_of_the_older_checkpoints_of_a_trial_one_is_kept(fallen_back):
    attempts = fallen_back.trial.attempts()

    assert [attempt.checkpoint_path.exists() for attempt in attempts] == [False, True, True]


def assert_same_state(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Weights, optimizer and moving statistics, bit by bit."""
    assert state.keys() == expected.keys()
    for name in state.keys() - {"progress", "owner"}:
        np.testing.assert_array_equal(state[name], expected[name], err_msg=name)
