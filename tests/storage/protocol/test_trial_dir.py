from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from storage.protocol.attempts import EndRecord, Failure
from storage.protocol.codec import to_json
from storage.protocol.files import OS_FILES, write_atomically
from storage.protocol.records import EpochMetrics, Outcome, spec_sha256
from storage.protocol.trial_dir import MetricsReader, TrialDir, TrialDirError
from tests.storage.protocol.example_records import METRICS, REPORT, RESULT, SPEC


@pytest.fixture
def trial(tmp_path) -> TrialDir:
    return TrialDir(tmp_path / "trials" / "0007")


@pytest.fixture
def attempt(trial):
    return trial.new_attempt()


def test_a_spec_comes_back_as_it_was_written(trial):
    assert trial.create(SPEC)

    assert trial.read_spec() == SPEC


def test_a_spec_that_is_there_stays_as_it_is(trial):
    trial.create(SPEC)

    assert not trial.create(replace(SPEC, epochs=1))

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


def test_a_reader_gives_each_epoch_once(attempt):
    reader = MetricsReader(attempt)
    for epoch in range(3):
        attempt.append_metrics(of_epoch(epoch))

    assert [metrics.epoch for metrics in reader.read_new()] == [0, 1, 2]
    attempt.append_metrics(of_epoch(3))
    assert [metrics.epoch for metrics in reader.read_new()] == [3]
    assert reader.read_new() == []


@pytest.mark.parametrize("line", ["", "{", "[]", '{"epoch": 1}', "\x00\x00", '{"epoch": "one"}', "[" * 100_000])
def test_a_line_that_is_not_an_epoch_is_passed_over_and_its_place_is_logged(attempt, caplog, line):
    attempt.append_metrics(of_epoch(0))
    with (attempt.path / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    attempt.append_metrics(of_epoch(2))

    assert [metrics.epoch for metrics in attempt.read_metrics()] == [0, 2]
    assert not line or "metrics.jsonl, line 2 is passed over" in caplog.text


def test_a_torn_line_costs_no_other_one(attempt):
    attempt.append_metrics(of_epoch(0))
    with (attempt.path / "metrics.jsonl").open("a") as file:
        file.write(to_json(of_epoch(1))[:40])

    attempt.append_metrics(of_epoch(2))

    assert [metrics.epoch for metrics in attempt.read_metrics()] == [0, 2]


def test_at_a_size_limit_a_line_is_written_whole_or_not_at_all(attempt):
    attempt.append_metrics(of_epoch(0))
    size = (attempt.path / "metrics.jsonl").stat().st_size

    with files_no_larger_than(size + 168), pytest.raises(OSError, match="File too large"):
        attempt.append_metrics(of_epoch(1))

    assert (attempt.path / "metrics.jsonl").stat().st_size == size
    attempt.append_metrics(of_epoch(2))
    assert [metrics.epoch for metrics in attempt.read_metrics()] == [0, 2]


@pytest.mark.parametrize("name", ["communicator.json", "result.json", "end.json", "heartbeat", "stop", "failed"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"outcome": "sideways", "epochs_done": 1}'])
def test_a_damaged_file_counts_as_absent(attempt, name, content):
    (attempt.path / name).write_bytes(content)

    found = (
        attempt.read_communicator(),
        attempt.read_result(),
        attempt.read_end_record(),
        attempt.read_heartbeat(),
        attempt.requested_stop(),
        attempt.read_rank_failure(),
    )
    assert found == (None,) * 6


def test_a_file_of_a_later_version_is_read_without_what_is_new_in_it(attempt):
    text = to_json(RESULT).replace("{", '{"colour": "blue", ', 1)
    (attempt.path / "result.json").write_text(text)

    assert attempt.read_result() == RESULT


def test_the_first_rank_that_fails_by_itself_is_the_one_that_counts(attempt):
    attempt.record_rank_failure(2, "width=0")
    attempt.record_rank_failure(14, "lost its peers")

    assert (attempt.read_rank_failure().exit_code, attempt.read_rank_failure().reason) == (2, "width=0")


def test_an_end_by_a_result_says_what_the_result_says(attempt):
    attempt.append_metrics(of_epoch(0))
    attempt.write_result(RESULT)
    attempt.write_end(EndRecord(None, "", 0, 12.5))

    end = attempt.end(Failure.ABANDONED, "nobody saw it")

    assert (end.result, end.failure, end.reason, end.wall_s) == (RESULT, None, "", 12.5)
    assert [metrics.epoch for metrics in end.epochs] == [0]


def test_an_end_that_only_its_runner_saw_is_what_the_runner_says(attempt):
    attempt.log_path.write_text("last words")
    attempt.write_end(EndRecord(Failure.CRASHED, "ValueError: x", 1, 3.0))

    end = attempt.end(Failure.ABANDONED, "nobody saw it")

    assert (end.failure, end.reason, end.exit_code, end.log_tail) == (Failure.CRASHED, "ValueError: x", 1, "last words")


@pytest.mark.parametrize("signs", [{"heartbeat": 71.5}, {"lived": 71.5}, {"heartbeat": 60.0, "lived": 71.5}])
def test_an_end_that_nobody_saw_lasted_until_the_last_sign_of_life(attempt, signs):
    for kind, seconds in signs.items():
        getattr(attempt, f"write_{kind}")(seconds)

    end = attempt.end(Failure.ABANDONED, "its driver ended")

    assert (end.failure, end.reason, end.exit_code, end.wall_s) == (Failure.ABANDONED, "its driver ended", None, 71.5)


def test_what_is_trained_makes_a_specification_and_not_whose_it_is():
    own = spec_sha256(to_json(SPEC))
    elsewhere = replace(SPEC, study_name="x", study_uuid="y", trial_number=9, cache_dir="z", checkpoint_every_epochs=5)

    assert spec_sha256(to_json(elsewhere)) == own
    for change in ({"seed": 4}, {"epochs": 9}, {"world_size": 2}, {"deterministic": False}):
        assert spec_sha256(to_json(replace(SPEC, **change))) != own


def test_a_specification_that_a_later_version_reads_is_still_the_same(trial):
    # As a version wrote it that knew no field of today's but these.
    older = to_json(SPEC).replace(', "study_uuid": ""', "")
    trial.path.mkdir(parents=True)
    (trial.path / "spec.json").write_text(older)

    assert trial.spec_sha256() == spec_sha256(older) == spec_sha256(to_json(SPEC))
    assert trial.read_spec() == SPEC


def test_the_newest_attempts_checkpoint_comes_first(trial):
    for number in (1, 2, 3):
        trial.attempt(number).path.mkdir(parents=True)
    for number in (1, 3):
        trial.attempt(number).checkpoint_path.touch()

    assert trial.checkpoints() == [trial.attempt(3).checkpoint_path, trial.attempt(1).checkpoint_path]


def test_nobody_shares_an_attempt(trial, monkeypatch):
    first = trial.new_attempt()
    # A listing that is older than what is there, as a network file system gives it.
    monkeypatch.setattr(type(OS_FILES), "list_dir", lambda self, path: [])

    assert trial.new_attempt() == trial.attempt(first.number + 1)


def test_nobody_else_may_enter_a_trial(trial):
    attempt = trial.new_attempt()

    assert [path.stat().st_mode & 0o077 for path in (attempt.path, trial.path, trial.path.parent)] == [0, 0, 0]


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
        "import os, pathlib, signal, sys; from storage.protocol.files import write_atomically\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), b'new')"
    )

    writer = subprocess.run([sys.executable, "-c", kill_before_renaming, path], cwd=Path(__file__).parents[3])

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
