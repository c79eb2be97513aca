"""Trials of two ranks that end before their last epoch: refused, pruned, diverged or short of memory."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from storage.protocol.codec import to_json
from storage.protocol.exit_codes import ExitCode
from storage.protocol.records import ComponentSpec, Outcome, spec_sha256
from storage.protocol.trial_dir import AttemptDir, FailureNote, TrialDir
from storage.protocol.variables import POWERCAP_DIR, REQUIRED_BACKEND, REQUIRES_ENERGY
from tests.trainers.tiny_trial import (
    DEADLINE_S,
    TRAIN,
    attempt_of,
    open_attempt,
    run_program,
    start_ranks,
    switch_at,
    tiny_spec,
)

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

SPEC = tiny_spec()


# One after the other in the same two ranks.


class Ends(NamedTuple):
    folder: Path
    answers: list[dict]
    """Of each rank: trial -> exit code and errors."""
    exit_code: int
    errors: str

    def attempt(self, trial: str, number: int = 1) -> AttemptDir:
        return TrialDir(self.folder / trial).attempt(number)

    def exit_codes(self, trial: str) -> list[int]:
        return [answer[trial]["exit_code"] for answer in self.answers]

    def error_lines(self, trial: str) -> list[list[str]]:
        """Of each rank."""
        return [answer[trial]["errors"].splitlines() for answer in self.answers]


DIVERGING = dataclasses.replace(
    SPEC,
    optimizer=ComponentSpec("sgd", {"learning_rate": 1e30}),
    model=ComponentSpec("small_resnet", {"width": 2, "blocks": [1], "normalisation": "none"}),
)
OTHER_MODEL = dataclasses.replace(SPEC, model=ComponentSpec("small_resnet", {"width": 2, "blocks": [1]}))
REFUSED = {
    "unknown model": (
        dataclasses.replace(SPEC, model=ComponentSpec("resnet")),
        ExitCode.BAD_SPEC,
        r"there is no 'resnet' among the models; choose one of .*small_resnet",
    ),
    "unknown option": (
        dataclasses.replace(SPEC, optimizer=ComponentSpec("sgd", {"learning_rate": 0.1, "momentun": 0.9})),
        ExitCode.BAD_SPEC,
        r"sgd takes no option momentun; it takes learning_rate, momentum",
    ),
    "impossible option": (
        dataclasses.replace(SPEC, optimizer=ComponentSpec("sgd", {"learning_rate": 0.1, "momentum": 1.5})),
        ExitCode.BAD_SPEC,
        r"momentum",
    ),
    "batch that does not split": (
        dataclasses.replace(SPEC, batch_policy=switch_at(1, small=7)),
        ExitCode.BAD_SPEC,
        r"global_batch_size=7 does not split evenly over 2 ranks; use 4 or 8\.",
    ),
    "loader batch beyond the data": (
        dataclasses.replace(SPEC, loader_batch_size=TRAIN + 8),
        ExitCode.BAD_SPEC,
        r"loader_batch_size=104 is what one rank loads at once, but all 2 ranks together have 96 training samples",
    ),
    "empty split": (
        dataclasses.replace(SPEC, dataset=ComponentSpec("synthetic_bigearthnet", {"train": 96, "val": 1, "size": 8})),
        ExitCode.BAD_SPEC,
        r"the val split of synthetic_bigearthnet holds 1 samples; it needs at least one for each of the 2 ranks",
    ),
    "missing images": (
        dataclasses.replace(SPEC, dataset=ComponentSpec("image_folder", {"path": "/nowhere/at/all"})),
        ExitCode.UNUSABLE_ALLOCATION,
        r"/nowhere/at/all",
    ),
    "other world size": (
        dataclasses.replace(SPEC, world_size=3),
        ExitCode.UNUSABLE_ALLOCATION,
        r"the trial asks for 3 ranks but 2 have met",
    ),
    "file that is not a checkpoint": (
        SPEC,
        ExitCode.BAD_CHECKPOINT,
        r"checkpoint\.npz is not a checkpoint of this trial .*; remove it to start over",
    ),
    "foreign checkpoint": (
        SPEC,
        ExitCode.BAD_CHECKPOINT,
        rf"checkpoint\.npz is of study 1234, specification {spec_sha256(to_json(OTHER_MODEL))[:12]}, and this trial "
        rf"is of study \(none\), specification {spec_sha256(to_json(SPEC))[:12]}; move it away to start over",
    ),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> Ends:
    folder = tmp_path_factory.mktemp("trials")
    specs = {
        "pruned": SPEC,
        "diverging": DIVERGING,
        "superseded": SPEC,
        "damaged checkpoint": dataclasses.replace(SPEC, epochs=1),
        **{name: spec for name, (spec, _, _) in REFUSED.items()},
        # Last, because rank 0 finds out alone and ends the process.
        "broken image": dataclasses.replace(
            SPEC,
            dataset=broken_images(folder),
            cache_dir=str(folder / "cache"),
            batch_policy=switch_at(2, small=2, large=4),
        ),
    }
    attempts = {name: attempt_of(open_attempt(folder / name, spec)) for name, spec in specs.items()}
    attempts["pruned"].request_stop(Outcome.PRUNED)
    attempts["superseded"].trial.new_attempt()
    attempts["damaged checkpoint"].checkpoint_path.write_bytes(b"PK\3\4 and no more")
    write_arrays(attempts["file that is not a checkpoint"])
    write_arrays(
        attempts["foreign checkpoint"], {"study_uuid": "1234", "spec_sha256": spec_sha256(to_json(OTHER_MODEL))}
    )
    folders = [attempt.path for attempt in attempts.values()]
    folders[-1:-1] = [folder / "no such trial", make_empty(folder / "trial without a specification")]

    answers_dir = make_empty(folder / "answers")
    run = run_program("several_trials", answers_dir, *folders)
    answers = [json.loads((answers_dir / f"{rank}.json").read_text()) for rank in (0, 1)]
    return Ends(folder, answers, run.returncode, run.stderr)


def make_empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def write_arrays(attempt: AttemptDir, owner: dict[str, str] | None = None) -> None:
    arrays = {"weights": np.zeros(3)} if owner is None else {"owner": np.array(json.dumps(owner))}
    np.savez(attempt.checkpoint_path, **arrays)


def broken_images(folder: Path) -> ComponentSpec:
    """A data set whose table is in order, and one of whose images is not."""
    images = make_empty(folder / "images")
    lines = ["image,split,grass"]
    for number in range(12):
        split = "train" if number < 8 else "val"
        Image.new("RGB", (8, 8)).save(images / f"{number}.png")
        lines.append(f"{number}.png,{split},{number % 2}")
    (images / "labels.csv").write_text("\n".join(lines))
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:40])
    return ComponentSpec("image_folder", {"path": str(images)})


def test_all_ranks_stop_in_the_same_epoch_when_the_trial_is_pruned(ends):
    attempt = ends.attempt("pruned")

    assert ends.exit_codes("pruned") == [0, 0]
    assert (attempt.read_result().outcome, attempt.read_result().epochs_done) == (Outcome.PRUNED, 1)
    assert len(attempt.read_metrics()) == 1
    assert attempt.read_rank_failure() is None


def test_a_diverging_trial_ends_with_its_scores_and_is_no_error(ends):
    attempt = ends.attempt("diverging")

    assert ends.exit_codes("diverging") == [0, 0]
    assert attempt.read_result().outcome is Outcome.DIVERGED
    last = attempt.read_metrics()[-1]
    assert not math.isfinite(last.train_loss + last.val_loss)
    assert 0.0 <= last.f1_macro <= 1.0
    assert attempt.read_result().epochs_done == last.epoch + 1
    assert [metrics.epoch for metrics in attempt.read_result().epochs] == list(range(last.epoch + 1))


def test_an_attempt_that_is_superseded_when_it_begins_trains_no_epoch_and_writes_no_checkpoint(ends):
    attempt = ends.attempt("superseded")

    assert ends.exit_codes("superseded") == [ExitCode.SUPERSEDED] * 2
    assert attempt.trial.checkpoints() == []
    assert attempt.read_metrics() == []
    assert attempt.read_result() is None
    assert list(ends.attempt("superseded", 2).path.iterdir()) == []


def test_a_trial_whose_only_checkpoint_is_damaged_starts_over_and_says_so(ends):
    attempt = ends.attempt("damaged checkpoint")

    assert ends.exit_codes("damaged checkpoint") == [0, 0]
    assert [metrics.epoch for metrics in attempt.read_metrics()] == [0]
    (line,), from_rank_1 = ends.error_lines("damaged checkpoint")
    assert re.search(r"attempt-01/checkpoint\.npz is damaged \(.+\) and passed over", line)
    assert from_rank_1 == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_trial_that_cannot_be_trained_ends_all_ranks_with_one_line_from_the_first(ends, name):
    _, exit_code, words = REFUSED[name]

    assert ends.exit_codes(name) == [exit_code, exit_code]
    lines = ends.error_lines(name)
    assert len(lines[0]) == 1
    assert lines[0][0].startswith("error: ")
    assert re.search(words, lines[0][0])
    assert lines[1] == []
    assert ends.attempt(name).read_metrics() == []
    assert ends.attempt(name).read_result() is None


@pytest.mark.parametrize("name", [*REFUSED, "superseded"])
def test_ranks_that_end_by_a_fault_leave_its_exit_code_and_words_for_the_runner(ends, name):
    ((line,), _), (exit_code, _) = ends.error_lines(name), ends.exit_codes(name)

    note = ends.attempt(name).read_rank_failure()

    assert note.exit_code == exit_code
    assert note.reason.removeprefix("SupersededError: ") == line.removeprefix("error: ")


def test_a_folder_without_a_specification_is_the_callers_fault_and_one_that_is_not_there_that_of_a_mount(ends):
    for name, exit_code in (
        ("trial without a specification", ExitCode.BAD_SPEC),
        ("no such trial", ExitCode.UNUSABLE_ALLOCATION),
    ):
        assert ends.exit_codes(name) == [exit_code] * 2
        assert ends.error_lines(name) == [
            [f"error: {ends.folder / name} holds no spec.json; a trial directory starts with one."],
            [],
        ]


def test_a_rank_that_fails_alone_ends_the_others_which_wait_for_it(ends):
    # Rank 0 decodes the images, rank 1 waits for that.
    assert "broken image" not in ends.answers[0]
    assert ends.exit_code == ExitCode.UNUSABLE_ALLOCATION
    (line,) = [line for line in ends.errors.splitlines() if line.startswith("error: ")]
    assert "3.png" in line
    note = ends.attempt("broken image").read_rank_failure()
    assert note == FailureNote(ExitCode.UNUSABLE_ALLOCATION, line.removeprefix("error: "))


# What only one allocation lacks.


def test_ranks_whose_gradients_would_take_a_slower_way_than_the_site_asks_for_end_before_epoch_0(tmp_path):
    request = dataclasses.replace(open_attempt(tmp_path / "trial", SPEC), environment={REQUIRED_BACKEND: "nccl"})

    with start_ranks(request) as ranks:
        _, errors = ranks.communicate(timeout=DEADLINE_S)

    assert ranks.returncode == ExitCode.UNUSABLE_ALLOCATION
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert re.search(r"rank 0 on \S+ has no GPU of its own", line)
    attempt = attempt_of(request)
    assert attempt.read_rank_failure() == FailureNote(ExitCode.UNUSABLE_ALLOCATION, line.removeprefix("error: "))
    # What was found out is kept for whoever wonders why.
    assert attempt.read_communicator().data_plane == "mpi"
    assert attempt.read_metrics() == []


def test_ranks_that_cannot_measure_what_their_study_goes_by_end_before_the_first_epoch(tmp_path):
    nothing_to_read = {REQUIRES_ENERGY: "1", POWERCAP_DIR: str(tmp_path)}
    request = dataclasses.replace(open_attempt(tmp_path / "trial", SPEC), environment=nothing_to_read)

    with start_ranks(request) as ranks:
        _, errors = ranks.communicate(timeout=DEADLINE_S)

    assert ranks.returncode == ExitCode.UNUSABLE_ALLOCATION
    assert "error: the study goes by energy_kwh, and rapl does not measure it here: rapl: " in errors
    assert attempt_of(request).read_communicator().energy_missing.startswith("rapl: ")
    assert attempt_of(request).read_metrics() == []


def test_an_mpi_that_threads_may_not_share_is_refused_before_epoch_0(tmp_path):
    environment = {"MPI4PY_RC_THREAD_LEVEL": "serialized"}
    request = dataclasses.replace(open_attempt(tmp_path / "trial", SPEC), environment=environment)

    with start_ranks(request) as ranks:
        _, errors = ranks.communicate(timeout=DEADLINE_S)

    assert ranks.returncode == ExitCode.UNUSABLE_ALLOCATION, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "MPI_THREAD_MULTIPLE" in line
    assert attempt_of(request).read_metrics() == []


def test_a_batch_that_does_not_fit_on_one_rank_ends_the_trial_before_epoch_0(tmp_path):
    spec = dataclasses.replace(
        SPEC,
        loader_batch_size=4096,
        batch_policy=switch_at(1, large=8192),
        dataset=ComponentSpec("synthetic_bigearthnet", {"train": 8192, "val": 8, "size": 32}),
        model=ComponentSpec("small_resnet", {"width": 16, "blocks": [1]}),
    )
    request = open_attempt(tmp_path / "trial", spec)

    # More than one pool of malloc would use up the address space at once.
    run = run_program("little_memory_on_rank_1", request.trial_dir, "--attempt=1", "--threads=1", MALLOC_ARENA_MAX="1")

    assert run.returncode == ExitCode.OUT_OF_MEMORY
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, run.stderr[-3000:]
    assert "global_batch_size=8192 does not fit into the memory of rank 1" in lines[0]
    assert re.search(r"; use training\.accumulation_steps=\d+, a smaller batch or more ranks", lines[0]), lines[0]
    assert "(OOM when allocating tensor with shape[" in lines[0]
    attempt = attempt_of(request)
    assert attempt.read_rank_failure().exit_code == ExitCode.OUT_OF_MEMORY
    assert lines[0].removeprefix("error: ") in attempt.read_rank_failure().reason
    assert attempt.read_metrics() == []
    assert attempt.trial.checkpoints() == []
