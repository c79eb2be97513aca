"""Searches on a cluster, simulated by recorded learning curves: the time until one of the best scores is reached.

A trial is one of the recorded ones, drawn anew each time; its epochs take the recorded times, divided by the speed of
its nodes. Who is promoted is decided as in study/halving.py, whose functions look at all records each time.
"""

from __future__ import annotations

import bisect
import csv
import heapq
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        return sum(self.seconds[first:last]) / sum(self.seconds)


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


class Rungs:
    """What study/halving.py decides by the records of one bracket, for thousands of searches: each rung is sorted."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._ranked: defaultdict[int, list[tuple[float, int, int]]] = defaultdict(list)
        self._orders = itertools.count()

    def reach(self, trial: int, rung: int, value: float) -> int:
        """Add a record.

        Returns:
            How many of its rung are better.
        """
        record = (-value, next(self._orders), trial)
        place = bisect.bisect(self._ranked[rung], record)
        self._ranked[rung].insert(place, record)
        return place

    def goes_on(self, rung: int, place: int) -> bool:
        return place < max(1, len(self._ranked[rung]) // self._factor)

    def is_promotable(self, rung: int, place: int) -> bool:
        return place < len(self._ranked[rung]) // self._factor

    def next_promotion(self, held: Container[tuple[int, int]]) -> tuple[int, int] | None:
        """One of the trials that wait, as their numbers and the rungs that they have reached."""
        for rung in sorted(self._ranked, reverse=True):
            ranked = self._ranked[rung]
            for _, _, trial in ranked[: len(ranked) // self._factor]:
                if (trial, rung) in held:
                    return trial, rung
        return None


@dataclass
class _Trial:
    number: int
    scores: tuple[float, ...]
    rung: int = 0
    epochs: int = 0
    """Done at the end of the part under way."""


class _Simulation:
    def __init__(self, curves: Curves, method: Method, machine: Machine, seed: int) -> None:
        self._curves, self._method, self._machine = curves, method, machine
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._rungs = Rungs(method.factor)
        self._free = NODES
        self._held: dict[tuple[int, int], _Trial] = {}
        self._ends: list[tuple[float, int, _Trial]] = []

    def time_to(self, target: float, patience: float) -> float:
        now = 0.0
        while now <= patience:
            self._fill(now)
            now, _, trial = heapq.heappop(self._ends)
            if trial.epochs < self._curves.epochs:
                self._judge(trial, now)
            elif trial.scores[-1] >= target:
                return now
            else:
                self._free += self._method.nodes(trial.rung)
        return math.inf

    def _fill(self, now: float) -> None:
        """Promotions first. One that needs more nodes than are free keeps them from new trials."""
        while True:
            promoted = self._rungs.next_promotion(self._held)
            rung = 0 if promoted is None else promoted[1] + 1
            if self._free < self._method.nodes(rung):
                return
            self._free -= self._method.nodes(rung)
            if promoted is None:
                trial = _Trial(next(self._numbers), self._random.choice(self._curves.scores))
                self._train(trial, now, 0.0)
            else:
                self._train(self._held.pop(promoted), now, self._machine.restart)

    def _judge(self, trial: _Trial, now: float) -> None:
        reached, nodes = trial.rung, self._method.nodes(trial.rung)
        place = self._rungs.reach(trial.number, reached, trial.scores[trial.epochs - 1])
        trial.rung += 1
        if self._method.promotes:
            passes = self._rungs.is_promotable(reached, place)
        else:
            passes = self._rungs.goes_on(reached, place)
        if passes and self._method.nodes(trial.rung) == nodes:
            self._train(trial, now, 0.0)
            return
        self._free += nodes
        if self._method.promotes:
            self._held[trial.number, reached] = trial

    def _train(self, trial: _Trial, now: float, delay: float) -> None:
        first, rungs = trial.epochs, self._method.rungs
        trial.epochs = rungs[trial.rung] if trial.rung < len(rungs) else self._curves.epochs
        share = self._curves.share(first, trial.epochs)
        duration = share / self._machine.speed(self._method.nodes(trial.rung))
        heapq.heappush(self._ends, (now + delay + duration, trial.number, trial))


def times_to_target(
    curves: Curves, method: Method, machine: Machine, searches: int, within: float = 0.01, patience: float = math.inf
) -> list[float]:
    """Until a trial has been trained to the end whose last score is within so much of the best recorded one.

    Args:
        patience: When a search gives up: no pruner may ever let a curve pass that begins badly.

    Returns:
        For each search, in times of a whole trial on four nodes; infinite for one that gave up.
    """
    target = curves.target(within)
    return [_Simulation(curves, method, machine, seed).time_to(target, patience) for seed in range(searches)]


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
