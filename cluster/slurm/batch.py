"""Slurm as a batch system: sbatch, squeue, scancel and sinfo."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.batch_system import BatchSystemError, JobState, QueuedJob, SubmissionRefusedError
from cluster.slurm.words import is_transient_refusal, own_words

_TIMEOUT_S = 30
_STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "STAGE_OUT": JobState.ENDING,
    # Such a job has lost its worker, and cleaning up after it can take minutes.
    "COMPLETING": JobState.ENDING,
}
_FIELDS = "%i|%T|%D|%L|%M|%j|%r|%Z"


class Slurm:
    """The jobs of one study.

    Args:
        folder: Where the jobs run and leave their logs. No other study has it, so it tells whose a job is.
        job_prefix: With which the names of the study's jobs begin.
        script: From a job's name and nodes to the script that is submitted.
        environment: That sbatch runs in, and passes on to the job.
        partition: Slurm's default if None.
    """

    def __init__(
        self,
        folder: Path,
        job_prefix: str,
        script: Callable[[str, int], str],
        environment: Mapping[str, str],
        partition: str | None,
    ) -> None:
        self._folder, self._prefix, self._script = folder, job_prefix, script
        self._environment, self._partition = environment, partition

    def submit(self, name: str, nodes: int) -> str:
        try:
            script = self._script(name, nodes)
            printed = run_command("sbatch", "--parsable", stdin=script, environment=self._environment)
        except SlurmRefusalError as error:
            words = str(error)
            raise SubmissionRefusedError(words, is_transient_refusal(words)) from None
        # A site's wrapper may print before it; with --parsable the id comes last, with the cluster's name behind it.
        last = printed.strip().splitlines()[-1] if printed.strip() else ""
        job_id, _, _ = last.partition(";")
        if not job_id.isdecimal():
            raise BatchSystemError(f"sbatch: no job id in what it printed: {printed.strip()!r}")
        return job_id

    def cancel(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            run_command("scancel", *job_ids)

    def queue(self) -> list[QueuedJob]:
        # Of all states, because how a job ended says why its trial was interrupted.
        printed = run_command("squeue", "--me", "--noheader", "--states=all", f"--format={_FIELDS}")
        return parse_queue(printed, self._prefix, self._folder)

    def describe_waiting(self) -> str:
        choice = (f"--partition={self._partition}",) if self._partition else ()
        try:
            lines = run_command("sinfo", "--noheader", *choice, "--format=%D %T").splitlines()
        except BatchSystemError as error:
            return str(error)
        return f"nodes of partition {self._partition or '(default)'}: {', '.join(line.strip() for line in lines)}"

    def log_tail(self, job_id: str) -> str:
        with suppress(OSError):
            text = (self._folder / f"{job_id}.log").read_text(errors="replace")
            if lines := [line for line in text.splitlines() if line.strip()]:
                return " / ".join(lines[-4:])
        return "(it printed nothing)"


def parse_queue(printed: str, prefix: str, folder: Path) -> list[QueuedJob]:
    """A study's jobs out of what squeue printed. Pure. What is not a job's line is passed over."""
    jobs = []
    for line in printed.splitlines():
        fields = line.split("|", 7)
        if len(fields) != 8:
            continue
        job_id, state, nodes, left, used, name, reason, job_folder = fields
        if not name.startswith(prefix) or job_folder != str(folder) or not nodes.isdecimal():
            continue
        words = state if reason in ("None", "") else f"{state} ({reason})"
        used_s = parse_duration_s(used)
        jobs.append(
            QueuedJob(
                job_id,
                name,
                _STATES.get(state, JobState.ENDED),
                words,
                int(nodes),
                parse_duration_s(left),
                # Of a job that has not begun, some versions say INVALID.
                used_s if math.isfinite(used_s) else 0.0,
            )
        )
    return jobs


def parse_duration_s(text: str) -> float:
    """[[DAYS-]HOURS:]MINUTES:SECONDS as seconds; infinite for UNLIMITED, NOT_SET and INVALID."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return float("inf")
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class SlurmRefusalError(BatchSystemError):
    """A command of Slurm's said no."""


def run_command(*command: str, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    try:
        ended = subprocess.run(
            command, input=stdin or "", capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise BatchSystemError(f"there is no command {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise BatchSystemError(f"{command[0]} has not answered for {_TIMEOUT_S} s") from None
    if ended.returncode:
        raise SlurmRefusalError(f"{command[0]}: {own_words(ended.stderr)}")
    return ended.stdout
