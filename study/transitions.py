"""What follows from the end of an attempt: tell the study, or try again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optuna.trial import TrialState

from storage.protocol.attempts import AttemptEnd, Failure, counted_epoch, merge_epochs
from storage.protocol.records import Outcome, TrialResult
from study.halving import Verdict
from study.objectives import VALUE_OF_DIVERGED

MAX_PAUSES_WITHOUT_PROGRESS = 5


@dataclass(frozen=True)
class Tell:
    """The trial is over."""

    state: TrialState
    value: float | None
    outcome: str
    """What the trial's attributes say: an Outcome, or what went wrong."""
    reason: str = ""


@dataclass(frozen=True)
class TryAgain:
    """The trial goes on from its checkpoint, in a new attempt."""

    reason: str


@dataclass(frozen=True)
class Hold:
    """The trial waits with its checkpoint until it is promoted or the study ends."""

    reason: str


@dataclass(frozen=True)
class Halt:
    """No trial of the study can go on until a person has put something right. The trial stays as it is."""

    reason: str


Transition = Tell | TryAgain | Hold | Halt


def next_transition(
    ends: Sequence[AttemptEnd],
    objective: str,
    crash_retries: int,
    interruption_retries: int,
    verdict: Verdict = Verdict.GO_ON,
    why: str = "",
) -> Transition:
    """Decide by all attempts of a trial that count, oldest first; the last one has just ended.

    Args:
        objective: Of SCORES: the trial's value, of the epoch that its ranks say counts.
        crash_retries: Attempts granted after crashes.
        interruption_retries: Attempts granted after interruptions in a row. An interruption is nobody's fault and costs
            the trial nothing, as long as the trial gets anywhere between two.
        verdict: The pruner's standing one. However the ranks have ended before they heard of it, it is carried out,
            unless the trial was over by then.
        why: The verdict, in words.
    """
    ends = [_unless_its_epochs_are_lost(ends[: index + 1]) for index in range(len(ends))]
    end = ends[-1]
    is_over = end.result is not None and end.result.outcome in (Outcome.COMPLETED, Outcome.DIVERGED)
    if not is_over and verdict is Verdict.STOP:
        return pruned(why)
    if not is_over and verdict is Verdict.HOLD:
        return Hold(why)
    if end.result is not None:
        return _after_result(end.result, ends, objective)
    match end.failure:
        case Failure.BAD_SPEC:
            return Tell(TrialState.FAIL, None, end.name, end.reason)
        case Failure.BAD_CHECKPOINT:
            return Halt(end.reason)
        case Failure.DISK_FULL:
            return Halt("No space left on device for the trials' checkpoints and logs; make room")
        case Failure.UNUSABLE_ALLOCATION | Failure.NOT_LAUNCHED | Failure.ABANDONED:
            # Says something of the allocation or the driver, and nothing of the trial: the study counts these.
            return TryAgain(_words(end))
        case Failure.INTERRUPTED | Failure.SUPERSEDED:
            count = _fruitless(ends)
            if count > interruption_retries:
                reason = f"{count} times in a row without a further epoch, at last: {end.reason}"
                return Tell(TrialState.FAIL, None, end.name, reason)
            return TryAgain(_words(end))
        case _:
            return _after_crash(end, ends, crash_retries)


def pruned(why: str) -> Tell:
    """A trial that its pruner has stopped, or held and never promoted. Optuna gives it its last epoch's value."""
    return Tell(TrialState.PRUNED, None, Outcome.PRUNED, why)


def _after_crash(end: AttemptEnd, ends: Sequence[AttemptEnd], crash_retries: int) -> Transition:
    crashes = sum(e.failure in (Failure.CRASHED, Failure.OUT_OF_MEMORY) for e in ends)
    if crashes > crash_retries:
        return Tell(TrialState.FAIL, None, end.name, f"{end.reason}, attempt {len(ends)}")
    return TryAgain(_words(end))


def _after_result(result: TrialResult, ends: Sequence[AttemptEnd], objective: str) -> Transition:
    match result.outcome:
        case Outcome.PAUSED:
            count = _fruitless(ends)
            if count >= MAX_PAUSES_WITHOUT_PROGRESS:
                reason = f"{count} times in a row without getting any further; a longer walltime may help"
                return Tell(TrialState.FAIL, None, result.outcome, reason)
            return TryAgain(result.outcome)
        case Outcome.HELD:
            return TryAgain("held at its rung")
        case Outcome.DIVERGED:
            return Tell(TrialState.COMPLETE, VALUE_OF_DIVERGED, result.outcome, result.reason)
        case Outcome.PRUNED:
            return Tell(TrialState.PRUNED, None, result.outcome, result.reason)
        case Outcome.COMPLETED:
            return Tell(TrialState.COMPLETE, counted_epoch(ends).score(objective), result.outcome)


def _unless_its_epochs_are_lost(ends: Sequence[AttemptEnd]) -> AttemptEnd:
    """The last one; a result whose epochs are nowhere has no value, and is a crash."""
    end = ends[-1]
    if end.result is None or end.result.outcome is not Outcome.COMPLETED:
        return end
    found = len(merge_epochs(ends))
    if found == end.result.epochs_done and found > 0:
        return end
    reason = f"its result says {end.result.epochs_done} epochs, and {found} are in its files"
    return replace(end, result=None, failure=Failure.CRASHED, reason=reason, log_tail="")


def _words(end: AttemptEnd) -> str:
    return f"{end.name}: {end.reason}"


def _fruitless(ends: Sequence[AttemptEnd]) -> int:
    """Interruptions and pauses, counted back from the last one, that got no further than the trial had been before.

    Attempts that say nothing of the trial do not count.
    """
    count, furthest = 0, (-1, -1)
    for end in ends:
        if end.failure is not None and (end.failure.is_of_the_allocation or end.failure is Failure.ABANDONED):
            continue
        reached = _reached(end)
        count = count + 1 if _is_passing(end) and reached <= furthest else 0
        furthest = max(furthest, reached)
    return count


def _is_passing(end: AttemptEnd) -> bool:
    if end.result is not None:
        return end.result.outcome is Outcome.PAUSED
    return end.failure in (Failure.INTERRUPTED, Failure.SUPERSEDED)


def _reached(end: AttemptEnd) -> tuple[int, int]:
    """How far the trial was at an attempt's end: epochs, and loader batches of the next one."""
    if end.result is not None:
        return end.result.epochs_done, end.result.loader_batches_done
    return max((metrics.epoch + 1 for metrics in end.epochs), default=-1), -1
