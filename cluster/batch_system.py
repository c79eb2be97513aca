"""What a pool asks of a batch system: submit, cancel, and say how the jobs are. Slurm is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class BatchSystemError(RuntimeError):
    """A command of the batch system failed or took too long: nobody knows what it did. Quotes it."""


class SubmissionRefusedError(BatchSystemError):
    """The batch system did not take the job.

    Args:
        is_transient: Whether it may take it later: a limit is reached, or its controller is away.
    """

    def __init__(self, words: str, is_transient: bool) -> None:
        super().__init__(words)
        self.is_transient = is_transient


class JobState(Enum):
    PENDING = "pending"
    RUNNING = "running"
    ENDING = "ending"
    """Its processes are being ended; its nodes may not have answered yet."""
    ENDED = "ended"

    @property
    def is_alive(self) -> bool:
        return self in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True)
class QueuedJob:
    """A job of the study, as the batch system tells it."""

    job_id: str
    name: str
    state: JobState
    words: str
    """The batch system's own word for the state, and its reason for it."""
    nodes: int
    time_left_s: float
    """Of its walltime; infinite if nothing ends it."""
    used_s: float = 0.0
    """For which it has had its nodes."""


class BatchSystem(Protocol):
    """One study's jobs. Every call answers within a minute, or raises."""

    def submit(self, name: str, nodes: int) -> str:
        """Ask for a job with so many nodes, of this name, which no other job of the study has; gives its id.

        Raises:
            SubmissionRefusedError: It was not taken.
            BatchSystemError: It may or may not have been taken; `queue` will tell.
        """
        ...

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs, whatever state they are in; those that are over stay so, and unknown ones are passed over.

        Raises:
            BatchSystemError: They may go on.
        """
        ...

    def queue(self) -> Sequence[QueuedJob]:
        """The study's jobs, those of earlier drivers included. One that is over may be missing.

        Raises:
            BatchSystemError: There is no answer.
        """
        ...

    def describe_waiting(self) -> str:
        """Why jobs wait, in a few words."""
        ...

    def log_tail(self, job_id: str) -> str:
        """The end of what a job printed."""
        ...
