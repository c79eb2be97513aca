"""Slurm's own view of a study's jobs: squeue, sinfo and scancel."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

_TIMEOUT_S = 30
# COMPLETING is not among them: such a job has lost its worker, and cleaning up after it can take minutes.
_ALIVE = frozenset({"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"})
_FIELDS = "%i|%T|%D|%L|%r|%Z"


class SlurmCommandError(RuntimeError):
    """A command of Slurm's failed, or took too long. Quotes it."""


@dataclass(frozen=True)
class QueuedJob:
    """A line of squeue."""

    job_id: str
    state: str
    nodes: int
    end_unix_s: float
    """When its walltime is over; infinite if it has none."""
    reason: str
    """Why it waits, in Slurm's words."""
    folder: str

    @property
    def is_alive(self) -> bool:
        return self.state in _ALIVE

    @property
    def is_running(self) -> bool:
        return self.state == "RUNNING"


def read_queue(job_name: str) -> list[QueuedJob]:
    """This user's jobs of this name.

    Raises:
        SlurmCommandError: Slurm does not answer.
    """
    output = _run("squeue", "--me", "--noheader", f"--name={job_name}", f"--format={_FIELDS}")
    return parse_queue(output, time.time())


def parse_queue(output: str, now_unix_s: float) -> list[QueuedJob]:
    """What squeue printed. Pure."""
    jobs = []
    for line in output.splitlines():
        job_id, state, nodes, left, reason, folder = line.split("|", 5)
        jobs.append(QueuedJob(job_id, state, int(nodes), now_unix_s + parse_duration_s(left), reason, folder))
    return jobs


def parse_duration_s(text: str) -> float:
    """[[DAYS-]HOURS:]MINUTES:SECONDS as seconds; infinite for UNLIMITED, NOT_SET and INVALID."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return float("inf")
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def cancel(job_ids: Sequence[str]) -> None:
    """End jobs, whatever state they are in.

    Raises:
        SlurmCommandError: Slurm does not answer.
    """
    _run("scancel", *job_ids)


def describe_partition(queue: str | None) -> str:
    """How many nodes of a queue are in which state, in a few words."""
    choice = (f"--partition={queue}",) if queue else ()
    try:
        lines = _run("sinfo", "--noheader", *choice, "--format=%D %T").splitlines()
    except SlurmCommandError as error:
        return str(error)
    return f"nodes of queue {queue or '(default)'}: {', '.join(line.strip() for line in lines)}"


def own_words(text: str) -> str:
    """What Slurm said, out of all that was printed with it; all of it if none is Slurm's."""
    return slurm_lines(text) or " ".join(text.split())


def slurm_lines(text: str) -> str:
    """What Slurm's commands said in the midst of other output, each thing once; empty if they said nothing."""
    said = re.findall(
        r"^(?:sbatch|srun|squeue|scancel|sinfo|slurmstepd): (?:error: |fatal: )?(.*)$", text, re.MULTILINE
    )
    return "; ".join(dict.fromkeys(said))


def _run(*command: str) -> str:
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise SlurmCommandError(f"there is no command {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise SlurmCommandError(f"{command[0]} has not answered for {_TIMEOUT_S} s") from None
    if ended.returncode:
        raise SlurmCommandError(f"{command[0]}: {own_words(ended.stderr)}")
    return ended.stdout
