from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.protocol.records import EpochMetrics, Outcome, to_json
from storage.protocol.trial_dir import TrialDir, TrialDirError, write_atomically
from tests.storage.protocol.example_records import METRICS, REPORT, RESULT, SPEC


@pytest.fixture
def trial(tmp_path) -> TrialDir:
    return TrialDir(tmp_path / "trials" / "0007")


@pytest.fixture
def attempt(trial):
    return trial.new_attempt()


def test_a_spec_comes_back_as_it_was_written(trial):
    trial.write_spec(SPEC)

    assert trial.read_spec() == SPEC


def test_a_spec_that_is_there_stays_as_it_is(trial):
    trial.write_spec(SPEC)

    trial.write_spec(METRICS)

    assert trial.read_spec() == SPEC


def test_a_missing_spec_is_named_with_its_directory(trial):
    with pytest.raises(TrialDirError, match=r"0007 holds no spec\.json"):
        trial.read_spec()


def test_a_damaged_spec_is_named_with_its_file(trial):
    trial.path.mkdir(parents=True)
    (trial.path / "spec.json").write_text('{"epochs": 3')

    with pytest.raises(TrialDirError, match=r"0007/spec\.json: TrialSpec: not JSON"):
        trial.read_spec()


def test_what_the_ranks_write_comes_back(attempt):
    attempt.write_communicator(REPORT)
    attempt.write_result(RESULT)
    attempt.append_metrics(METRICS)

    assert attempt.read_communicator() == REPORT
    assert attempt.read_result() == RESULT
    # By repr, because NaN is not equal to itself.
    assert repr(attempt.read_metrics()) == repr([METRICS])


def test_an_attempt_that_has_just_begun_holds_nothing(attempt):
    assert attempt.read_communicator() is None
    assert attempt.read_result() is None
    assert attempt.requested_stop() is None
    assert attempt.read_metrics() == []
    assert attempt.log_tail() == ""


def test_epochs_that_are_known_already_are_skipped(attempt):
    for epoch in range(4):
        attempt.append_metrics(of_epoch(epoch))

    assert [metrics.epoch for metrics in attempt.read_metrics(skip=3)] == [3]
    assert attempt.read_metrics(skip=4) == []


def test_a_line_that_is_still_being_written_is_left_for_later(attempt):
    attempt.append_metrics(of_epoch(0))
    line = to_json(of_epoch(1))
    with (attempt.path / "metrics.jsonl").open("a") as file:
        file.write(line[:40])
        file.flush()

        assert [metrics.epoch for metrics in attempt.read_metrics()] == [0]

        file.write(f"{line[40:]}\n")
    assert [metrics.epoch for metrics in attempt.read_metrics()] == [0, 1]


@pytest.mark.parametrize("outcome", [Outcome.PRUNED, Outcome.PAUSED])
def test_a_requested_stop_says_which(attempt, outcome):
    attempt.request_stop(outcome)

    assert attempt.requested_stop() is outcome


def test_a_stop_may_be_requested_by_hand(attempt):
    subprocess.run(["sh", "-c", "echo paused > stop"], cwd=attempt.path, check=True)

    assert attempt.requested_stop() is Outcome.PAUSED


def test_attempts_count_from_one_and_sort_by_number(trial):
    trial.attempt(99).path.mkdir(parents=True)

    opened = [trial.new_attempt() for _ in range(2)]

    assert [attempt.path.name for attempt in opened] == ["attempt-100", "attempt-101"]
    assert [attempt.number for attempt in trial.attempts()] == [99, 100, 101]
    assert trial.newest_attempt() == opened[-1]


def test_the_first_attempt_makes_the_trials_directory(trial):
    attempt = trial.new_attempt()

    assert attempt.path.name == "attempt-01"
    assert attempt.trial == trial


def test_a_trial_that_does_not_exist_has_no_attempts(trial):
    assert trial.attempts() == []
    assert trial.newest_attempt() is None


def test_other_files_are_no_attempts(trial):
    attempt = trial.new_attempt()
    for name in ("attempt-x", "attempt-02.bak", "checkpoint.npz"):
        (trial.path / name).touch()

    assert trial.attempts() == [attempt]


def test_an_attempt_is_superseded_by_the_next_one(trial):
    first = trial.new_attempt()
    assert not first.is_superseded()

    second = trial.new_attempt()

    assert first.is_superseded()
    assert not second.is_superseded()


def test_the_tail_of_a_log_is_its_end(attempt):
    attempt.log_path.write_text("x" * 10_000 + "\nlast line\n")

    tail = attempt.log_tail(max_bytes=15)

    assert tail == "xxxx\nlast line"


def test_a_tail_that_begins_inside_a_character_is_still_text(attempt):
    attempt.log_path.write_text("ä" * 10)

    assert attempt.log_tail(max_bytes=3).endswith("ä")


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    # A reader that had opened the old file goes on reading that.
    with path.open() as reader:
        write_atomically(path, b"new")

        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == {"result.json"}


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_text("old")

    with pytest.raises(OSError, match="File too large"), files_no_larger_than(1000):
        write_atomically(path, bytes(100_000))

    assert path.read_text() == "old"
    assert names(tmp_path) == {"checkpoint.npz"}


def test_a_writer_that_is_interrupted_leaves_nothing_behind(tmp_path):
    # A directory cannot be replaced by a file.
    (tmp_path / "result.json").mkdir()

    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "result.json", b"new")

    assert names(tmp_path) == {"result.json"}


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_text("old")
    kill_before_renaming = (
        "import os, pathlib, signal, sys; from storage.protocol.trial_dir import write_atomically\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), b'new')"
    )

    writer = subprocess.run([sys.executable, "-c", kill_before_renaming, path], cwd=Path(__file__).parents[2])

    assert writer.returncode < 0
    assert path.read_text() == "old"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a disk that has no more left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def of_epoch(epoch: int) -> EpochMetrics:
    return EpochMetrics(**vars(METRICS) | {"epoch": epoch})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
