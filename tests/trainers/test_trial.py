"""Whole trials of two ranks under mpirun, started, held, killed and resumed as the product does."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from cluster.attempt import AttemptEnd, EndKind
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
    switch_at,
    tiny_spec,
    without_times,
)

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

SPEC = tiny_spec()


class Resumed(NamedTuple):
    trial: TrialDir
    first: AttemptEnd
    left_over: list[psutil.Process]
    """Of the first attempt, after its end."""
    checkpoint_between: dict[str, np.ndarray]
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
    run.wanted = Outcome.PAUSED
    return resume(run)


def resume(run: Run) -> Resumed:
    trial, first = TrialDir(run.request.trial_dir), run.end()
    left_over, between = processes_of(trial.path), arrays_in(trial)
    return Resumed(trial, first, left_over, between, second=Run(open_attempt(trial.path, SPEC)).end())


def arrays_in(trial: TrialDir) -> dict[str, np.ndarray]:
    with np.load(trial.checkpoint_path) as checkpoint:
        return dict(checkpoint)


def test_a_trial_trains_all_epochs_and_switches_the_batch_where_it_should(uninterrupted):
    end = uninterrupted.end()

    assert (end.kind, end.exit_code, end.log_tail) == (EndKind.ENDED, 0, "")
    assert (end.result.outcome, end.result.epochs_done) == (Outcome.COMPLETED, 4)
    assert [metrics.epoch for metrics in end.epochs] == [0, 1, 2, 3]
    assert [metrics.global_batch_size for metrics in end.epochs] == [SMALL, SMALL, LARGE, LARGE]
    assert [metrics.updates for metrics in end.epochs] == [TRAIN // SMALL] * 2 + [TRAIN // LARGE] * 2
    assert {metrics.samples for metrics in end.epochs} == {TRAIN}


def test_the_learning_rate_does_not_change_at_the_switch(uninterrupted):
    assert {metrics.learning_rate for metrics in uninterrupted.end().epochs} == {np.float32(0.1)}


def test_a_finished_trial_leaves_these_files_and_no_others(uninterrupted):
    trial_dir = uninterrupted.request.trial_dir

    files = {str(path.relative_to(trial_dir)) for path in trial_dir.rglob("*") if path.is_file()}

    names = ("begun", "communicator.json", "log.txt", "metrics.jsonl", "result.json")
    assert files == {"spec.json", "checkpoint.npz", *(f"attempt-01/{name}" for name in names)}


def test_the_runner_relays_every_epoch_once(uninterrupted):
    assert uninterrupted.relayed == list(uninterrupted.end().epochs)


def test_the_ranks_report_the_data_plane_that_they_use(uninterrupted):
    report = uninterrupted.end().communicator

    assert (report.world_size, len(report.hosts), report.data_plane) == (2, 2, "mpi")
    assert (report.mpi_built, report.mpi_enabled, report.nccl_built, report.gloo_enabled) == (True, True, False, False)
    assert report.versions["mpi"].startswith("Open MPI")


def test_a_killed_rank_takes_the_others_along_and_counts_as_an_interruption(killed):
    assert (killed.first.kind, killed.first.exit_code) == (EndKind.INTERRUPTED, 128 + signal.SIGKILL)
    assert killed.first.result is None
    assert killed.left_over == []
    assert [metrics.epoch for metrics in killed.first.epochs] == [0, 1]


def test_a_killed_trial_goes_on_from_its_checkpoint_as_if_nothing_had_happened(uninterrupted, killed):
    assert len(killed.progress_between["history"]) == 2
    assert killed.second.result.outcome is Outcome.COMPLETED
    assert without_times(killed.first.epochs + killed.second.epochs) == without_times(uninterrupted.end().epochs)


def test_a_trial_that_is_asked_to_pause_does_so_within_the_epoch(paused):
    assert (paused.first.kind, paused.first.exit_code) == (EndKind.ENDED, 0)
    assert (paused.first.result.outcome, paused.first.result.epochs_done) == (Outcome.PAUSED, 1)
    progress = paused.progress_between
    # The fourth of six loader batches was being read, ahead of the training.
    assert len(progress["history"]) == 1
    assert 1 <= progress["loader_batches"] <= 4
    assert progress["updates"] == 2 * progress["loader_batches"]


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

    assert (end.kind, end.exit_code) == (EndKind.ENDED, 0)
    assert (end.result.outcome, end.result.epochs_done) == (Outcome.PAUSED, 1)
    assert TrialDir(run.request.trial_dir).checkpoint_path.exists()


def test_a_resumed_trial_ends_with_the_same_weights_optimizer_and_moving_statistics(uninterrupted, killed, paused):
    expected = arrays_in(TrialDir(uninterrupted.request.trial_dir))

    for resumed in (killed, paused):
        state = arrays_in(resumed.trial)
        assert state.keys() == expected.keys()
        for name in state.keys() - {"progress"}:
            np.testing.assert_array_equal(state[name], expected[name], err_msg=name)


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


# Trials that end early, one after the other in the same two ranks.


class Ends(NamedTuple):
    folder: Path
    answers: list[dict]
    """Of each rank: trial -> exit code and errors."""
    exit_code: int
    errors: str


DIVERGING = dataclasses.replace(
    SPEC,
    optimizer=ComponentSpec("sgd", {"learning_rate": 1e30}),
    model=ComponentSpec("small_resnet", {"width": 2, "blocks": [1], "normalisation": "none"}),
)
BAD_SPECS = {
    "unknown model": (
        dataclasses.replace(SPEC, model=ComponentSpec("resnet")),
        r"there is no 'resnet' among the models; choose one of .*small_resnet",
    ),
    "unknown option": (
        dataclasses.replace(SPEC, optimizer=ComponentSpec("sgd", {"learning_rate": 0.1, "momentun": 0.9})),
        r"sgd takes no option momentun; it takes learning_rate, momentum",
    ),
    "impossible option": (
        dataclasses.replace(SPEC, optimizer=ComponentSpec("sgd", {"learning_rate": 0.1, "momentum": 1.5})),
        r"momentum",
    ),
    "batch that does not split": (
        dataclasses.replace(SPEC, batch_policy=switch_at(1, small=7)),
        r"global_batch_size=7 does not split evenly over 2 ranks; use 4 or 8\.",
    ),
    "empty split": (
        dataclasses.replace(SPEC, dataset=ComponentSpec("synthetic_bigearthnet", {"train": 96, "val": 1, "size": 8})),
        r"the val split of synthetic_bigearthnet holds 1 samples; it needs at least one for each of the 2 ranks",
    ),
    "missing images": (
        dataclasses.replace(SPEC, dataset=ComponentSpec("image_folder", {"path": "/nowhere/at/all"})),
        r"/nowhere/at/all",
    ),
    "other world size": (
        dataclasses.replace(SPEC, world_size=3),
        r"the trial asks for 3 ranks but 2 have met",
    ),
    "truncated checkpoint": (SPEC, r"checkpoint\.npz is not a checkpoint of this trial .*; remove it to start over"),
    "foreign checkpoint": (
        dataclasses.replace(SPEC, model=ComponentSpec("small_resnet", {"width": 2, "blocks": [1]})),
        r"checkpoint\.npz is not a checkpoint of this trial .*; remove it to start over",
    ),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory, uninterrupted) -> Ends:
    folder = tmp_path_factory.mktemp("trials")
    checkpoint = TrialDir(uninterrupted.request.trial_dir).checkpoint_path
    specs = {
        "pruned": SPEC,
        "diverging": DIVERGING,
        "superseded": SPEC,
        **{name: spec for name, (spec, _) in BAD_SPECS.items()},
        # Last, because rank 0 finds out alone and ends the process.
        "broken image": dataclasses.replace(SPEC, dataset=broken_images(folder), cache_dir=str(folder / "cache")),
    }
    for name, spec in specs.items():
        open_attempt(folder / name, spec)
    TrialDir(folder / "pruned").attempt(1).request_stop(Outcome.PRUNED)
    TrialDir(folder / "superseded").new_attempt()
    shutil.copy(checkpoint, folder / "foreign checkpoint")
    (folder / "truncated checkpoint" / "checkpoint.npz").write_bytes(checkpoint.read_bytes()[:-100])

    answers_dir = folder / "answers"
    answers_dir.mkdir()
    run = run_program("several_trials", answers_dir, *(folder / name for name in specs))
    answers = [json.loads((answers_dir / f"{rank}.json").read_text()) for rank in (0, 1)]
    return Ends(folder, answers, run.returncode, run.stderr)


def broken_images(folder: Path) -> ComponentSpec:
    """A data set whose table is in order, and one of whose images is not."""
    images = folder / "images"
    images.mkdir()
    lines = ["image,split,grass"]
    for number in range(12):
        split = "train" if number < 8 else "val"
        Image.new("RGB", (8, 8)).save(images / f"{number}.png")
        lines.append(f"{number}.png,{split},{number % 2}")
    (images / "labels.csv").write_text("\n".join(lines))
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:40])
    return ComponentSpec("image_folder", {"path": str(images)})


def test_all_ranks_stop_in_the_same_epoch_when_the_trial_is_pruned(ends):
    attempt = TrialDir(ends.folder / "pruned").attempt(1)

    assert [answer["pruned"]["exit_code"] for answer in ends.answers] == [0, 0]
    assert (attempt.read_result().outcome, attempt.read_result().epochs_done) == (Outcome.PRUNED, 1)
    assert len(attempt.read_metrics()) == 1


def test_a_diverging_trial_ends_with_its_scores_and_is_no_error(ends):
    attempt = TrialDir(ends.folder / "diverging").attempt(1)

    assert [answer["diverging"]["exit_code"] for answer in ends.answers] == [0, 0]
    assert attempt.read_result().outcome is Outcome.DIVERGED
    last = attempt.read_metrics()[-1]
    assert not math.isfinite(last.train_loss + last.val_loss)
    assert 0.0 <= last.f1_macro <= 1.0
    assert attempt.read_result().epochs_done == last.epoch + 1


def test_a_superseded_attempt_writes_no_checkpoint(ends):
    trial = TrialDir(ends.folder / "superseded")

    assert [answer["superseded"]["exit_code"] for answer in ends.answers] == [4, 4]
    assert not trial.checkpoint_path.exists()
    assert trial.attempt(1).read_result() is None
    assert list(trial.attempt(2).path.iterdir()) == []


@pytest.mark.parametrize("name", BAD_SPECS)
def test_a_bad_spec_ends_all_ranks_with_one_line_from_the_first(ends, name):
    answers = [answer[name] for answer in ends.answers]

    assert [answer["exit_code"] for answer in answers] == [2, 2]
    lines = [answer["errors"].splitlines() for answer in answers]
    assert len(lines[0]) == 1
    assert lines[0][0].startswith("error: ")
    assert re.search(BAD_SPECS[name][1], lines[0][0])
    assert lines[1] == []
    assert not (ends.folder / name / "attempt-01" / "metrics.jsonl").exists()


def test_a_rank_that_fails_alone_ends_the_others_which_wait_for_it(ends):
    # Rank 0 decodes the images, rank 1 waits for that.
    assert "broken image" not in ends.answers[0]
    assert ends.exit_code == 2
    assert [line for line in ends.errors.splitlines() if line.startswith("error: ") and "3.png" in line]


def test_a_batch_that_does_not_fit_on_one_rank_ends_the_trial_before_epoch_0(tmp_path):
    spec = dataclasses.replace(
        SPEC,
        loader_batch_size=4096,
        batch_policy=switch_at(1, large=8192),
        dataset=ComponentSpec("synthetic_bigearthnet", {"train": 8, "val": 8, "size": 64}),
    )
    request = open_attempt(tmp_path / "trial", spec)

    # More than one pool of malloc would use up the address space at once.
    run = run_program("little_memory_on_rank_1", request.trial_dir, "--attempt=1", "--threads=1", MALLOC_ARENA_MAX="1")

    assert run.returncode == 2
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "global_batch_size=8192 does not fit into the memory of rank 1; use a smaller batch" in lines[0]
    assert request.attempt.read_metrics() == []
    assert not request.attempt.trial.checkpoint_path.exists()
