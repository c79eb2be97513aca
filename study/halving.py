"""Successive halving by the order in which trials reach its rungs: who goes on, who is held or stopped. Pure.

What is decided follows from the records alone, in their order, so a driver that comes after another one decides the
same. Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a trial is to do after an epoch."""

    GO_ON = "go on"
    STOP = "stop"
    """It is pruned."""
    HOLD = "hold"
    """It waits with its checkpoint, and its allocation takes another trial, until it is promoted or the study ends."""


@dataclass(frozen=True)
class RungRecord:
    """A trial has reached a rung."""

    trial: int
    bracket: int
    rung: int
    """Counts from 0 within its bracket."""
    value: float


def default_rungs(first: int, factor: int, epochs: int) -> tuple[int, ...]:
    """Epochs done at each rung: `first`, times `factor` from one to the next, before the last epoch."""
    rungs = []
    while first < epochs:
        rungs.append(first)
        first *= factor
    return tuple(rungs)


def default_first_rung(factor: int, epochs: int) -> int:
    """Such that three rungs fit before the last epoch, where there are so many epochs."""
    return max(1, math.ceil(epochs / factor**3))


def bracket_sizes(count: int, factor: int) -> tuple[int, ...]:
    """How often each bracket is taken, for the same number of epochs in each.

    Source: Li et al. 2018, Hyperband, arXiv:1603.06560, algorithm 1; as in Optuna's HyperbandPruner.
    """
    return tuple(math.ceil(count * factor ** (count - 1 - bracket) / (count - bracket)) for bracket in range(count))


def bracket_of(draw: int, sizes: Sequence[int]) -> int:
    """The bracket that a whole random number means.

    Args:
        sizes: How often each bracket is taken.
    """
    place = draw % sum(sizes)
    for bracket, size in enumerate(sizes):
        if place < size:
            return bracket
        place -= size
    raise ValueError(f"there is no bracket for {draw} in {sizes}")


def goes_on(records: Sequence[RungRecord], record: RungRecord, factor: int) -> bool:
    """Whether a trial is one of the best 1 / `factor` of those that have reached its rung so far.

    As long as those are fewer than `factor`, the best one goes on: nobody is asked again later.

    Args:
        records: In the order in which they were made, up to and with `record`.
    """
    peers = _of_rung(records, record.bracket, record.rung)
    return record in _best(peers, max(1, len(peers) // factor))


def is_promotable(records: Sequence[RungRecord], record: RungRecord, factor: int) -> bool:
    """As `goes_on`, where a trial can wait until there are enough others to compare it with."""
    peers = _of_rung(records, record.bracket, record.rung)
    return record in _best(peers, len(peers) // factor)


def next_promotion(records: Sequence[RungRecord], held: Collection[int], factor: int) -> RungRecord | None:
    """The held trial that goes on next: of the highest rung that has one, the best.

    Args:
        records: In the order in which they were made.
        held: Numbers of the trials that wait.
    """
    promotable: dict[tuple[int, int], set[RungRecord]] = {}
    for record in _from_the_top(records, held):
        place = (record.bracket, record.rung)
        # Once for each rung: a study of a thousand trials asks this twice a second.
        if place not in promotable:
            peers = _of_rung(records, *place)
            promotable[place] = set(_best(peers, len(peers) // factor))
        if record in promotable[place]:
            return record
    return None


def last_resort(records: Sequence[RungRecord], held: Collection[int]) -> RungRecord | None:
    """The best trial of the highest rung: to be promoted where no trial would be trained to its last epoch."""
    return next(iter(_from_the_top(records, held)), None)


def _from_the_top(records: Sequence[RungRecord], held: Collection[int]) -> list[RungRecord]:
    """The last record of each held trial, the highest rung first, in it the best value, then the first one."""
    newest = {record.trial: record for record in records if record.trial in held}
    order = {record: index for index, record in enumerate(records)}
    return sorted(newest.values(), key=lambda record: (-record.rung, -_comparable(record.value), order[record]))


def _of_rung(records: Sequence[RungRecord], bracket: int, rung: int) -> list[RungRecord]:
    return [record for record in records if (record.bracket, record.rung) == (bracket, rung)]


def _best(records: Sequence[RungRecord], count: int) -> list[RungRecord]:
    """Of equal values, the first ones."""
    return sorted(records, key=lambda record: -_comparable(record.value))[:count]


def _comparable(value: float) -> float:
    return -math.inf if math.isnan(value) else value
