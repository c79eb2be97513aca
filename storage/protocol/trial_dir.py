"""The trial directory: the whole protocol between a runner and its ranks, and what survives both.

    runs/STUDY/study.json                           which study of which database the trials here belong to
    runs/STUDY/trials/0007/spec.json                what to train, written once, before the first attempt
    runs/STUDY/trials/0007/attempt-01/request.json  what the runner was asked for
    runs/STUDY/trials/0007/attempt-01/begun         empty: a rank has begun; without it, the launcher failed
    runs/STUDY/trials/0007/attempt-01/communicator.json  what the ranks found out about themselves before epoch 0
    runs/STUDY/trials/0007/attempt-01/heartbeat     seconds since rank 0 began; written anew while the ranks get on
    runs/STUDY/trials/0007/attempt-01/lived         seconds since the supervisor began; written anew while it lives
    runs/STUDY/trials/0007/attempt-01/metrics.jsonl one line per finished epoch, appended by rank 0
    runs/STUDY/trials/0007/attempt-01/checkpoint.npz     the attempt's newest checkpoint, replaced by rename
    runs/STUDY/trials/0007/attempt-01/stop          put there by the runner: end at the next epoch boundary
    runs/STUDY/trials/0007/attempt-01/failed        exit code and words of the first rank that ended by its own fault
    runs/STUDY/trials/0007/attempt-01/result.json   the attempt ended as it says; absent after a crash
    runs/STUDY/trials/0007/attempt-01/next.json     put there by the supervisor: the attempt that its ranks go on with
    runs/STUDY/trials/0007/attempt-01/exit.json     when and how the supervisor saw the ranks end
    runs/STUDY/trials/0007/attempt-01/end.json      what the runner saw of the end
    runs/STUDY/trials/0007/attempt-01/log.txt       what the ranks printed

Every file has one writer. Checkpoints lie with their attempts, so that ranks of an older attempt, should they live on
somewhere, cannot replace a newer attempt's.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from storage.protocol.attempts import AttemptEnd, AttemptRequest, EndRecord, ExitRecord, Failure, NextAttempt
from storage.protocol.codec import RecordError, from_json, to_json
from storage.protocol.files import OS_FILES, FileSystem
from storage.protocol.records import CommunicatorReport, EpochMetrics, Outcome, TrialResult, TrialSpec, spec_sha256

log = logging.getLogger(__name__)
Record = TypeVar("Record")

_ATTEMPT_NAME = re.compile(r"attempt-(\d+)")


class TrialDirError(OSError):
    """A trial directory does not hold what it should."""


@dataclass(frozen=True)
class FailureNote:
    """What a rank said of its own failure."""

    exit_code: int
    reason: str


@dataclass(frozen=True)
class AttemptDir:
    """One run of a trial in one allocation."""

    path: Path
    files: FileSystem = field(default=OS_FILES, compare=False, repr=False)

    @property
    def number(self) -> int:
        """Counts from 1."""
        match = _ATTEMPT_NAME.fullmatch(self.path.name)
        if match is None:
            raise TrialDirError(f"{self.path} is not an attempt; its name must be attempt-NN.")
        return int(match[1])

    @property
    def trial(self) -> TrialDir:
        return TrialDir(self.path.parent, self.files)

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.npz"

    def write_request(self, request: AttemptRequest) -> None:
        self._write("request.json", request)

    def read_request(self) -> AttemptRequest | None:
        """None of an attempt by hand."""
        return self._read(AttemptRequest, "request.json")

    def record_rank_began(self) -> None:
        """Called by each rank before anything else."""
        self.files.create(self.path / "begun", b"")

    @property
    def has_begun(self) -> bool:
        """Whether any rank was ever started."""
        return self.files.exists(self.path / "begun")

    def record_rank_failure(self, exit_code: int, reason: str) -> None:
        """Called by a rank that ends by its own fault: a launcher may tell of its peers, which die because it did."""
        self.files.create(self.path / "failed", f"{int(exit_code)}\n{reason}".encode())

    def read_rank_failure(self) -> FailureNote | None:
        """Of the first rank that failed by itself; None if none did, or could not say so."""
        code, _, reason = (self._read_text("failed") or "").partition("\n")
        return FailureNote(int(code), reason) if code.isdecimal() else None

    def append_metrics(self, metrics: EpochMetrics) -> None:
        self.files.append_line(self.path / "metrics.jsonl", to_json(metrics).encode())

    def read_metrics(self) -> list[EpochMetrics]:
        """The finished epochs. Lines that are not epochs are passed over, and so is one that is still being written."""
        return MetricsReader(self).read_new()

    def write_communicator(self, report: CommunicatorReport) -> None:
        self._write("communicator.json", report)

    def read_communicator(self) -> CommunicatorReport | None:
        """None before the ranks have met."""
        return self._read(CommunicatorReport, "communicator.json")

    def write_heartbeat(self, wall_s: float) -> None:
        """Called by rank 0 while the ranks get on; seconds since it began."""
        self.files.write_atomically(self.path / "heartbeat", f"{wall_s:.3f}".encode())

    def read_heartbeat(self) -> float | None:
        """None before the first one."""
        return self._read_seconds("heartbeat")

    def write_lived(self, wall_s: float) -> None:
        """Called by the supervisor while it lives, whether the ranks get on or not; seconds since it began."""
        self.files.write_atomically(self.path / "lived", f"{wall_s:.3f}".encode())

    def write_result(self, result: TrialResult) -> None:
        self._write("result.json", result)

    def read_result(self) -> TrialResult | None:
        """None while the attempt runs, and after a crash."""
        return self._read(TrialResult, "result.json")

    def write_next(self, attempt: AttemptDir) -> None:
        """Send the ranks that stayed after this attempt to the next one."""
        self._write("next.json", NextAttempt(attempt.path.parent, attempt.number))

    def read_next(self) -> AttemptDir | None:
        """None as long as the ranks are to wait."""
        following = self._read(NextAttempt, "next.json")
        return None if following is None else TrialDir(following.trial_dir).attempt(following.attempt_number)

    def write_exit(self, record: ExitRecord) -> None:
        self._write("exit.json", record)

    def read_exit(self) -> ExitRecord | None:
        """None while the ranks run, and after the loss of their supervisor."""
        return self._read(ExitRecord, "exit.json")

    def write_end(self, record: EndRecord) -> None:
        self._write("end.json", record)

    def read_end_record(self) -> EndRecord | None:
        """None while the attempt runs, and after the loss of its runner."""
        return self._read(EndRecord, "end.json")

    def request_stop(self, outcome: Outcome) -> None:
        """Ask the ranks to end with `outcome` (pruned or paused) at the next epoch boundary."""
        self.files.write_atomically(self.path / "stop", outcome.encode())

    def requested_stop(self) -> Outcome | None:
        text = (self._read_text("stop") or "").strip()
        return Outcome(text) if text in list(Outcome) else None

    def is_superseded(self) -> bool:
        """Whether a newer attempt exists: then this one's ranks outlived their reported end."""
        newest = self.trial.newest_attempt()
        return newest is not None and newest.number > self.number

    def log_tail(self, max_bytes: int = 4000) -> str:
        """The end of the ranks' output; empty if they printed nothing."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def end(
        self, otherwise: Failure, reason: str, exit_code: int | None = None, wall_s: float | None = None
    ) -> AttemptEnd:
        """How the attempt ended, by what its ranks and its runner had written: that says more than who saw it go.

        Args:
            otherwise: The failure if neither a result nor the runner's own record is there, for this `reason`.
            wall_s: Of the one who saw it go; None if nobody did. Only the supervisor knows better.
        """
        result, record, epochs = self.read_result(), self.read_end_record(), tuple(self.read_metrics())
        if record is None:
            record = EndRecord(otherwise, reason, exit_code, self._lived_s(wall_s))
        failure = None if result is not None else record.failure or otherwise
        return AttemptEnd(
            result=result,
            failure=failure,
            reason="" if failure is None else record.reason or reason,
            exit_code=record.exit_code,
            wall_s=record.wall_s,
            epochs=epochs,
            communicator=self.read_communicator(),
            log_tail="" if failure is None else self.log_tail(),
        )

    def _lived_s(self, seen_s: float | None) -> float:
        exited = self.read_exit()
        if exited is not None:
            return exited.wall_s
        signs_of_life = (self._read_seconds(name) or 0.0 for name in ("lived", "heartbeat"))
        return max(signs_of_life) if seen_s is None else seen_s

    def _write(self, name: str, record: object) -> None:
        self.files.write_atomically(self.path / name, to_json(record).encode())

    def _read(self, kind: type[Record], name: str) -> Record | None:
        text = self._read_text(name)
        if text is None:
            return None
        try:
            return from_json(kind, text, ignore_unknown=True)
        except RecordError as error:
            log.warning("%s is passed over: %s", self.path / name, error)
            return None

    def _read_seconds(self, name: str) -> float | None:
        try:
            return float(self._read_text(name) or "")
        except ValueError:
            return None

    def _read_text(self, name: str) -> str | None:
        content = self.files.read(self.path / name)
        return None if content is None else content.decode(errors="replace")


class MetricsReader:
    """Reads an attempt's epochs as they come, each once."""

    def __init__(self, attempt: AttemptDir) -> None:
        self._attempt, self._path = attempt, attempt.path / "metrics.jsonl"
        self._lines_read = 0

    def read_new(self) -> list[EpochMetrics]:
        """The epochs since the last call. A line that is still being written is left for the next one."""
        content = self._attempt.files.read(self._path) or b""
        *lines, _unfinished = content.split(b"\n")
        found = []
        for number, line in enumerate(lines[self._lines_read :], start=self._lines_read + 1):
            try:
                found.append(from_json(EpochMetrics, line.decode(errors="replace"), ignore_unknown=True))
            except RecordError as error:
                if line:
                    log.warning("%s, line %d is passed over: %s", self._path, number, error)
        self._lines_read = max(self._lines_read, len(lines))
        return found


@dataclass(frozen=True)
class TrialDir:
    """All that is kept of one trial."""

    path: Path
    files: FileSystem = field(default=OS_FILES, compare=False, repr=False)

    def create(self, spec: TrialSpec) -> bool:
        """Make the directory and say what to train; False, and nothing happens, if it is there with a specification."""
        if self.has_spec():
            return False
        self.files.make_dir(self.path)
        self.files.write_atomically(self.path / "spec.json", to_json(spec).encode())
        return True

    def read_spec(self) -> TrialSpec:
        """What to train.

        Raises:
            TrialDirError: There is no spec.json, or it cannot be understood.
        """
        try:
            return from_json(TrialSpec, self._spec_text())
        except RecordError as error:
            raise TrialDirError(f"{self.path / 'spec.json'}: {error}") from error

    def spec_sha256(self) -> str:
        """Of the specification that is there. See `spec_sha256` of the records.

        Raises:
            TrialDirError: There is no spec.json, or it is not JSON.
        """
        try:
            return spec_sha256(self._spec_text())
        except (ValueError, AttributeError) as error:
            raise TrialDirError(f"{self.path / 'spec.json'} is not a specification: {error}") from error

    def has_spec(self) -> bool:
        return self.files.exists(self.path / "spec.json")

    def attempts(self) -> list[AttemptDir]:
        """Oldest first."""
        names = (name for name in self.files.list_dir(self.path) if _ATTEMPT_NAME.fullmatch(name))
        return sorted((AttemptDir(self.path / name, self.files) for name in names), key=lambda attempt: attempt.number)

    def newest_attempt(self) -> AttemptDir | None:
        attempts = self.attempts()
        return attempts[-1] if attempts else None

    def attempt(self, number: int) -> AttemptDir:
        return AttemptDir(self.path / f"attempt-{number:02d}", self.files)

    def new_attempt(self) -> AttemptDir:
        """Open the next attempt, which tells the ranks of every earlier one to stop."""
        newest = self.newest_attempt()
        number = 1 if newest is None else newest.number + 1
        # A listing may be older than what is there; nobody ever shares an attempt.
        while not self.files.make_dir(self.attempt(number).path):
            number += 1
        return self.attempt(number)

    def checkpoints(self) -> Sequence[Path]:
        """Of all attempts that have one, the newest attempt's first."""
        paths = (attempt.checkpoint_path for attempt in reversed(self.attempts()))
        return [path for path in paths if self.files.exists(path)]

    def _spec_text(self) -> str:
        content = self.files.read(self.path / "spec.json")
        if content is None:
            raise TrialDirError(f"{self.path} holds no spec.json; a trial directory starts with one.")
        return content.decode(errors="replace")
