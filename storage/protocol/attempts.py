"""One attempt of a trial: what its runner is asked for, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from storage.protocol.records import CommunicatorReport, EpochMetrics, TrialResult


class LayoutError(ValueError):
    """Ranks cannot be laid out like this."""


@dataclass(frozen=True)
class RankLayout:
    """Where the ranks of one trial go."""

    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    gpus_per_node: int = 0

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks_per_node", "cpus_per_rank"):
            if getattr(self, name) < 1:
                raise LayoutError(f"{name}={getattr(self, name)}; a trial needs at least 1.")

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class AttemptRequest:
    """What a runner needs to know."""

    trial_dir: Path
    trial_number: int
    attempt_number: int
    layout: RankLayout
    launcher_name: str
    launcher_options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    """Added to the runner's own."""
    grace_s: float = 30.0
    """For the ranks to save a checkpoint when they must go."""
    rendezvous_timeout_s: float = 600.0
    """Ranks that have not found one another by then never will; they are terminated."""
    heartbeat_timeout_s: float = 900.0
    """Ranks that have shown no sign of life for so long are terminated."""
    time_left_s: float = float("inf")
    """Of the allocation, when the request is made; the ranks are paused early enough to save a checkpoint. No point in
    time, because the clocks of driver and runner may differ."""

    ranks_stay: bool = False
    """Whether the ranks wait for the next attempt when this one has come to a result."""
    code_folders: tuple[Path, ...] = ()
    """Where the packages of components that are not bundled lie, unless they are installed."""
    code_sha256: str = ""
    """Of those packages' source. Ranks that stay have imported it as it was."""

    @property
    def key(self) -> str:
        """Unique within a study."""
        return f"{self.trial_number}/{self.attempt_number}"


class Failure(StrEnum):
    """Why an attempt ended without a result."""

    BAD_SPEC = "bad spec"
    """The specification cannot be trained; a repetition would end the same."""
    BAD_CHECKPOINT = "bad checkpoint"
    """The trial's checkpoint belongs to another trial."""
    UNUSABLE_ALLOCATION = "unusable allocation"
    """Its ranks, GPUs, data plane or mounts are not what the site promises."""
    NOT_LAUNCHED = "not launched"
    """No rank began: the launcher could not start them."""
    INTERRUPTED = "interrupted"
    """From outside: its allocation, node or runner went away."""
    ABANDONED = "abandoned"
    """Its driver went away first, so nobody saw how it ended."""
    SUPERSEDED = "superseded"
    """A newer attempt took over."""
    DISK_FULL = "disk full"
    """The ranks could not write; another trial could not either."""
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"

    @property
    def is_from_outside(self) -> bool:
        """Whether it says nothing of the trial."""
        return self in (Failure.INTERRUPTED, Failure.ABANDONED, Failure.SUPERSEDED)

    @property
    def is_of_the_allocation(self) -> bool:
        """Whether it says that no trial can run in this allocation."""
        return self in (Failure.UNUSABLE_ALLOCATION, Failure.NOT_LAUNCHED)


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended: by its result, or by a failure and what a person needs to see why."""

    result: TrialResult | None = None
    failure: Failure | None = None
    reason: str = ""
    """Of a failure, in one line. Never empty then."""
    exit_code: int | None = None
    """Of the ranks; None if nobody saw it."""
    wall_s: float = 0.0
    """Of the allocation that it held."""
    epochs: tuple[EpochMetrics, ...] = ()
    """That this attempt itself trained."""
    communicator: CommunicatorReport | None = None
    log_tail: str = ""
    nodes: int = 1
    """Of the allocation that it held. Only the driver knows."""

    def __post_init__(self) -> None:
        if (self.result is None) == (self.failure is None):
            raise ValueError(f"an attempt ends by a result or by a failure, not by {self.result} and {self.failure}")
        if self.failure is not None and not self.reason:
            raise ValueError(f"{self.failure} without a reason")

    @property
    def name(self) -> str:
        """Its result's outcome, or its failure."""
        return str(self.result.outcome if self.result is not None else self.failure)


@dataclass(frozen=True)
class NextAttempt:
    """What ranks that stay go on with: next.json."""

    trial_dir: Path
    attempt_number: int


@dataclass(frozen=True)
class ExitRecord:
    """What the supervisor saw of the ranks' end, whether its runner was still there or not: exit.json."""

    exit_code: int
    wall_s: float


@dataclass(frozen=True)
class EndRecord:
    """What the runner alone knows of an attempt's end: end.json. The rest is in the ranks' files."""

    failure: Failure | None
    reason: str
    exit_code: int | None
    wall_s: float


def counted_epoch(ends: Sequence[AttemptEnd]) -> EpochMetrics:
    """The epoch whose score is a completed trial's value."""
    epochs, result = merge_epochs(ends), ends[-1].result
    return epochs[-1 if result is None or result.counted_epoch is None else result.counted_epoch]


def merge_epochs(ends: Sequence[AttemptEnd]) -> list[EpochMetrics]:
    """The epochs of a trial over its attempts, oldest first; where two trained the same epoch, the later one counts.

    A result tells the whole history of its weights, so nothing that an attempt before it told counts beside it.
    """
    merged: dict[int, EpochMetrics] = {}
    for end in ends:
        if end.result is not None and (end.result.epochs or end.result.epochs_done == 0):
            merged = {metrics.epoch: metrics for metrics in end.result.epochs}
        else:
            merged |= {metrics.epoch: metrics for metrics in end.epochs}
    return [merged[epoch] for epoch in sorted(merged)]
