"""The trial directory: the whole protocol between a runner and its ranks.

    runs/STUDY/trials/0007/spec.json                what to train, written once, before the first attempt
    runs/STUDY/trials/0007/checkpoint.npz           the newest complete checkpoint, replaced by rename
    runs/STUDY/trials/0007/attempt-01/begun         empty: a rank has begun; without it, the launcher failed
    runs/STUDY/trials/0007/attempt-01/failed        exit code of the first rank that ended by a fault of its own
    runs/STUDY/trials/0007/attempt-01/metrics.jsonl one line per finished epoch, appended by rank 0
    runs/STUDY/trials/0007/attempt-01/communicator.json  what the ranks found out about themselves before epoch 0
    runs/STUDY/trials/0007/attempt-01/result.json   the attempt ended as it says; absent after a crash
    runs/STUDY/trials/0007/attempt-01/stop          put there by the runner: end at the next epoch boundary
    runs/STUDY/trials/0007/attempt-01/log.txt       what the ranks printed

Every file but the log and the metrics is written under a temporary name and renamed, so a reader sees all of it or
none. Standard library only.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage.records import (
    CommunicatorReport,
    EpochMetrics,
    Outcome,
    RecordError,
    TrialResult,
    TrialSpec,
    from_json,
    to_json,
)

_ATTEMPT_NAME = re.compile(r"attempt-(\d+)")


class TrialDirError(OSError):
    """A trial directory does not hold what it should."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or what it was raised from, is that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def has_room(folder: Path) -> bool:
    """Whether a small file can be written here: the free space of a disk says nothing of quotas."""
    probe = folder / "probe"
    try:
        write_atomically(probe, bytes(2**16))
    except OSError as error:
        return not is_disk_full(error)
    probe.unlink(missing_ok=True)
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that a reader sees either whole or not at all, and that survives a power cut."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class AttemptDir:
    """One run of a trial in one allocation."""

    path: Path

    @property
    def number(self) -> int:
        """Counts from 1."""
        match = _ATTEMPT_NAME.fullmatch(self.path.name)
        if match is None:
            raise TrialDirError(f"{self.path} is no attempt; its name must be attempt-NN.")
        return int(match[1])

    @property
    def trial(self) -> TrialDir:
        return TrialDir(self.path.parent)

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    def note_rank_began(self) -> None:
        """Called by each rank before anything else."""
        (self.path / "begun").touch()

    @property
    def has_begun(self) -> bool:
        """Whether any rank was ever started."""
        return (self.path / "begun").exists()

    def note_rank_failed(self, exit_code: int) -> None:
        """Called by a rank that ends by its own fault: a launcher may tell of its peers, which end for want of it."""
        with suppress(FileExistsError), (self.path / "failed").open("x") as file:
            file.write(str(exit_code))

    def read_failed_exit_code(self) -> int | None:
        """Of the first rank that failed by itself; None if none did, or could not say so."""
        text = _read_if_there(self.path / "failed")
        return int(text) if text else None

    def append_metrics(self, metrics: EpochMetrics) -> None:
        # One write call of one line: a reader that tails the file meets a whole line or its beginning, never a mix.
        with (self.path / "metrics.jsonl").open("ab", buffering=0) as file:
            file.write(f"{to_json(metrics)}\n".encode())
            os.fsync(file.fileno())

    def read_metrics(self, skip: int = 0) -> list[EpochMetrics]:
        """The finished epochs, less the first `skip`. A line that is still being written is left for the next call."""
        try:
            content = (self.path / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return []
        whole_lines = content.split("\n")[:-1]
        return [from_json(EpochMetrics, line) for line in whole_lines[skip:]]

    def write_communicator(self, report: CommunicatorReport) -> None:
        write_atomically(self.path / "communicator.json", to_json(report).encode())

    def read_communicator(self) -> CommunicatorReport | None:
        """None before the ranks have met."""
        text = _read_if_there(self.path / "communicator.json")
        return None if text is None else from_json(CommunicatorReport, text)

    def write_result(self, result: TrialResult) -> None:
        write_atomically(self.path / "result.json", to_json(result).encode())

    def read_result(self) -> TrialResult | None:
        """None while the attempt runs, and after a crash."""
        text = _read_if_there(self.path / "result.json")
        return None if text is None else from_json(TrialResult, text)

    def request_stop(self, outcome: Outcome) -> None:
        """Ask the ranks to end with `outcome` (pruned or paused) at the next epoch boundary."""
        write_atomically(self.path / "stop", outcome.encode())

    def requested_stop(self) -> Outcome | None:
        text = _read_if_there(self.path / "stop")
        return None if text is None else Outcome(text.strip())

    def is_superseded(self) -> bool:
        """Whether a newer attempt exists: then this one's ranks outlived their node's reported death."""
        newest = self.trial.newest_attempt()
        return newest is not None and newest.number > self.number

    def log_tail(self, max_bytes: int = 4000) -> str:
        """The end of the ranks' output; empty if they printed nothing."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""


@dataclass(frozen=True)
class TrialDir:
    """All that is kept of one trial."""

    path: Path

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.npz"

    def write_spec(self, spec: TrialSpec) -> None:
        """Make the directory and say what to train. A spec that is there already stays as it is."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "spec.json").exists():
            write_atomically(self.path / "spec.json", to_json(spec).encode())

    def read_spec(self) -> TrialSpec:
        """What to train.

        Raises:
            TrialDirError: There is no spec.json, or it cannot be understood.
        """
        text = _read_if_there(self.path / "spec.json")
        if text is None:
            raise TrialDirError(f"{self.path} holds no spec.json; a trial directory starts with one.")
        try:
            return from_json(TrialSpec, text)
        except RecordError as error:
            raise TrialDirError(f"{self.path / 'spec.json'}: {error}") from error

    def attempts(self) -> list[AttemptDir]:
        """Oldest first."""
        if not self.path.is_dir():
            return []
        found = [AttemptDir(entry) for entry in self.path.iterdir() if _ATTEMPT_NAME.fullmatch(entry.name)]
        return sorted(found, key=lambda attempt: attempt.number)

    def newest_attempt(self) -> AttemptDir | None:
        attempts = self.attempts()
        return attempts[-1] if attempts else None

    def attempt(self, number: int) -> AttemptDir:
        return AttemptDir(self.path / f"attempt-{number:02d}")

    def new_attempt(self) -> AttemptDir:
        """Open the next attempt, which tells the ranks of every earlier one to stop."""
        newest = self.newest_attempt()
        attempt = self.attempt(1 if newest is None else newest.number + 1)
        attempt.path.mkdir(parents=True)
        return attempt


def _read_if_there(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
