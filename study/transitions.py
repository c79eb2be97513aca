"""What follows from the end of an attempt: tell the study, or try again. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cluster.attempt import AttemptEnd, EndKind
from storage.records import EpochMetrics, Outcome, TrialResult

# An interruption is nobody's fault and costs the trial nothing, as long as the trial gets anywhere between two.
MAX_INTERRUPTIONS_WITHOUT_PROGRESS = 3
_INTERRUPTIONS = frozenset({EndKind.INTERRUPTED, EndKind.SUPERSEDED})


class Finish(StrEnum):
    """How a trial is entered in the database."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAIL = "fail"


@dataclass(frozen=True)
class Tell:
    """The trial is over."""

    finish: Finish
    value: float | None
    outcome: str
    """What the trial's attributes say: an Outcome, or what went wrong."""
    reason: str = ""


@dataclass(frozen=True)
class TryAgain:
    """The trial goes on from its checkpoint, in a new attempt."""

    reason: str


@dataclass(frozen=True)
class Halt:
    """No trial of the study can go on until a person has put something right. The trial stays as it is."""

    reason: str


Transition = Tell | TryAgain | Halt


def next_transition(ends: Sequence[AttemptEnd], objective: str, crash_retries: int) -> Transition:
    """Decide by all attempts of a trial, oldest first; the last one has just ended.

    Args:
        objective: Field of EpochMetrics that is the trial's value, taken from the last epoch.
        crash_retries: Attempts granted after crashes.
    """
    end = ends[-1]
    if end.result is not None:
        return _after_result(end.result, ends, objective)
    if end.kind is EndKind.BAD_SPEC:
        return Tell(Finish.FAIL, None, "bad spec", cause(end.log_tail))
    if end.kind is EndKind.ABANDONED:
        return TryAgain("its driver ended before it")
    if end.kind is EndKind.DISK_FULL:
        return Halt("No space left on device for the trials' checkpoints and logs; make room")
    if end.kind is EndKind.NOT_LAUNCHED:
        # Says something of the allocation and nothing of the trial: the study counts these.
        return TryAgain(f"{end.kind}: {cause(end.log_tail)} (exit code {end.exit_code})")
    if end.kind in _INTERRUPTIONS:
        if _fruitless_interruptions(ends) >= MAX_INTERRUPTIONS_WITHOUT_PROGRESS:
            return Tell(
                Finish.FAIL,
                None,
                "interrupted",
                f"{_fruitless_interruptions(ends)} times in a row without a further epoch",
            )
        return TryAgain(f"{end.kind} (exit code {end.exit_code})")
    crashes = sum(e.kind is EndKind.CRASHED for e in ends)
    if crashes > crash_retries:
        return Tell(
            Finish.FAIL, None, "crashed", f"{cause(end.log_tail)} (exit code {end.exit_code}, attempt {len(ends)})"
        )
    return TryAgain(f"crashed: {cause(end.log_tail)} (exit code {end.exit_code})")


def merge_epochs(ends: Sequence[AttemptEnd]) -> list[EpochMetrics]:
    """The epochs of a trial over its attempts; where two trained the same epoch, the later one counts."""
    merged = {metrics.epoch: metrics for end in ends for metrics in end.epochs}
    return [merged[epoch] for epoch in sorted(merged)]


def cause(log_tail: str) -> str:
    """The line of a log's tail that a person should read first: ours, a Python exception's, or else the last one."""
    # Open MPI puts what it says between two lines of dashes.
    lines = [line.strip() for line in log_tail.splitlines() if line.strip(" -")]
    for pattern in (r"error: (.*)", r"((?:\w+\.)*\w*(?:Error|Exception|Interrupt): .*)"):
        matches = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if matches:
            return matches[-1]
    return lines[-1] if lines else ""


def _after_result(result: TrialResult, ends: Sequence[AttemptEnd], objective: str) -> Transition:
    match result.outcome:
        case Outcome.PAUSED:
            return TryAgain("paused")
        case Outcome.DIVERGED:
            # A network whose weights are not finite predicts no class at all: its F1 is 0, and samplers learn from it.
            return Tell(Finish.COMPLETE, 0.0, result.outcome, result.reason)
        case Outcome.PRUNED:
            return Tell(Finish.PRUNED, None, result.outcome, result.reason)
        case Outcome.COMPLETED:
            return Tell(Finish.COMPLETE, getattr(merge_epochs(ends)[-1], objective), result.outcome)


def _fruitless_interruptions(ends: Sequence[AttemptEnd]) -> int:
    """Interrupted attempts, counted back from the last one, that got no further than the trial had been before."""
    count, furthest = 0, -1
    for end in (end for end in ends if end.kind is not EndKind.NOT_LAUNCHED):
        reached = max((metrics.epoch for metrics in end.epochs), default=-1)
        is_fruitless = end.kind in _INTERRUPTIONS and reached <= furthest
        count = count + 1 if is_fruitless else 0
        furthest = max(furthest, reached)
    return count
