"""Searches on a cluster, simulated by recorded learning curves: the time until one of the best scores is reached.

Who is promoted is decided by study/halving.py itself. A trial is one of the recorded ones, drawn anew each time; its
epochs take the recorded times, divided by the speed of its nodes.
"""

from __future__ import annotations

import csv
import heapq
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from study.halving import RungRecord, goes_on, is_promotable, next_promotion

NODES = 24
"""Of the cluster: 96 GPUs."""
NODES_OF_A_TRIAL = 4


@dataclass(frozen=True)
class Curves:
    """Recorded trials."""

    scores: tuple[tuple[float, ...], ...]
    """By trial and epoch."""
    seconds: tuple[float, ...]
    """By epoch, the mean over the trials."""

    @property
    def epochs(self) -> int:
        return len(self.seconds)

    def target(self, within: float) -> float:
        """The best last score, less so large a part of it."""
        return max(scores[-1] for scores in self.scores) * (1 - within)

    def share(self, first: int, last: int) -> float:
        """Of a trial's time that the epochs from `first` to before `last` take."""
        return math.fsum(self.seconds[first:last]) / math.fsum(self.seconds)


@dataclass(frozen=True)
class Method:
    name: str
    rungs: tuple[int, ...] = ()
    """Epochs done at each."""
    promotes: bool = False
    """Whether a trial that is not among the best waits for others, instead of being stopped."""
    nodes_by_rung: tuple[int, ...] = (NODES_OF_A_TRIAL,)
    """Of a trial before its first rung, after it, and so on; the last one is that of all further ones."""
    factor: int = 3

    def nodes(self, rung: int) -> int:
        return self.nodes_by_rung[min(rung, len(self.nodes_by_rung) - 1)]


@dataclass(frozen=True)
class Machine:
    """How fast nodes are together, and what it costs to begin with others."""

    efficiency: float = 0.9
    """Of twice as many nodes: they are twice this as fast."""
    restart: float = 0.01
    """Of a trial's time on four nodes: new ranks that read a checkpoint."""

    def speed(self, nodes: int) -> float:
        """Relative to NODES_OF_A_TRIAL nodes."""
        return float((2 * self.efficiency) ** math.log2(nodes / NODES_OF_A_TRIAL))


@dataclass
class _Trial:
    number: int
    scores: tuple[float, ...]
    rung: int = 0
    epochs: int = 0
    """Done at the end of the part under way."""


@dataclass
class _Simulation:
    curves: Curves
    method: Method
    machine: Machine
    random: random.Random
    free: int = NODES
    records: list[RungRecord] = field(default_factory=list)
    held: dict[int, _Trial] = field(default_factory=dict)
    ends: list[tuple[float, int, _Trial]] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def time_to(self, target: float) -> float:
        now = 0.0
        while True:
            self._fill(now)
            now, _, trial = heapq.heappop(self.ends)
            if trial.epochs == self.curves.epochs:
                self.free += self.method.nodes(trial.rung)
                if trial.scores[-1] >= target:
                    return now
            else:
                self._judge(trial, now)

    def _fill(self, now: float) -> None:
        """Promotions first. One that needs more nodes than are free keeps them from new trials."""
        while True:
            record = next_promotion(self.records, self.held, self.method.factor) if self.held else None
            trial = self.held[record.trial] if record else None
            if self.free < self.method.nodes(trial.rung if trial else 0):
                return
            if trial is None:
                number = next(self.numbers)
                trial = _Trial(number, self.random.choice(self.curves.scores))
            else:
                del self.held[trial.number]
            self.free -= self.method.nodes(trial.rung)
            self._train(trial, now, self.machine.restart if trial.rung else 0.0)

    def _judge(self, trial: _Trial, now: float) -> None:
        record = RungRecord(trial.number, 0, trial.rung, trial.scores[trial.epochs - 1])
        self.records.append(record)
        nodes = self.method.nodes(trial.rung)
        trial.rung += 1
        passes = (is_promotable if self.method.promotes else goes_on)(self.records, record, self.method.factor)
        if passes and self.method.nodes(trial.rung) == nodes:
            self._train(trial, now, 0.0)
            return
        self.free += nodes
        if self.method.promotes:
            self.held[trial.number] = trial

    def _train(self, trial: _Trial, now: float, delay: float) -> None:
        first = trial.epochs
        rungs = self.method.rungs
        trial.epochs = rungs[trial.rung] if trial.rung < len(rungs) else self.curves.epochs
        duration = self.curves.share(first, trial.epochs) / self.machine.speed(self.method.nodes(trial.rung))
        heapq.heappush(self.ends, (now + delay + duration, trial.number, trial))


def times_to_target(
    curves: Curves, method: Method, machine: Machine, searches: int, within: float = 0.01
) -> list[float]:
    """Until a trial has been trained to the end whose last score is within so much of the best recorded one.

    Returns:
        For each search, in times of a whole trial on four nodes.
    """
    target = curves.target(within)
    return [_Simulation(curves, method, machine, random.Random(seed)).time_to(target) for seed in range(searches)]


def read_curves(path: Path) -> Curves:
    """From a CSV with the columns seed, trial, epoch (from 1), f1_micro and seconds."""
    scores: dict[tuple[str, str], list[float]] = {}
    seconds: dict[int, list[float]] = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            scores.setdefault((row["seed"], row["trial"]), []).append(float(row["f1_micro"]))
            seconds.setdefault(int(row["epoch"]), []).append(float(row["seconds"]))
    return Curves(
        tuple(map(tuple, scores.values())),
        tuple(math.fsum(values) / len(values) for _, values in sorted(seconds.items())),
    )


def methods(rungs: Sequence[int]) -> list[Method]:
    """Those that are compared."""
    own = tuple(rungs)
    return [
        Method("random search, 4 nodes a trial"),
        Method("ASHA that stops, 4 nodes", own),
        Method("ASHA that promotes, 4 nodes", own, promotes=True),
        Method("ASHA that promotes, 1 node", own, promotes=True, nodes_by_rung=(1,)),
        Method("RASDA, 1, 2 and 4 nodes", own, promotes=True, nodes_by_rung=(1, 2, 4)),
    ]
