"""What trials will take: epochs of known and unknown batch sizes, their starts, node-hours and time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from storage.protocol.workload import Workload
from study.forecast.fit import CostFit, Estimate, TooFewMeasurementsError
from study.forecast.measurements import MeasuredStart, Measurements
from study.forecast.performance_model import Placement, update_factors


@dataclass(frozen=True)
class Forecast:
    """Of one trial after another, as they were measured."""

    updates: CostFit
    """Of the seconds of an update, by UpdateCosts."""
    rest: CostFit
    """Of the seconds of an epoch that are no updates, evaluation above all."""
    starts: tuple[MeasuredStart, ...]
    placement: Placement
    """Of the trials that are forecast."""
    train_samples: int

    @classmethod
    def of(cls, measured: Measurements, placement: Placement, train_samples: int) -> Forecast | None:
        """None if too little was measured."""
        factors, updates_s, rest_factors, rest_s = [], [], [], []
        for epoch in measured.epochs:
            ranks, size = epoch.placement.ranks, epoch.global_batch_size
            factors.append(update_factors(epoch.placement, size / ranks))
            updates_s.append(size / epoch.samples_per_s)
            rest_factors.append(_rest_factors(epoch.placement))
            trained_s = _updates(train_samples, ranks, size) * size / epoch.samples_per_s
            rest_s.append(max(epoch.wall_s - trained_s, _LEAST_S))
        try:
            updates, rest = CostFit.of(factors, updates_s), CostFit.of(rest_factors, rest_s)
        except TooFewMeasurementsError:
            return None
        return cls(updates, rest, measured.starts, placement, train_samples)

    def epochs_s(self, global_batch_sizes: Sequence[int]) -> Estimate:
        """Epochs of these batch sizes, the one after the other."""
        ranks = self.placement.ranks
        factors = [0.0] * len(update_factors(self.placement, 1))
        for size in global_batch_sizes:
            updates = _updates(self.train_samples, ranks, size)
            for index, factor in enumerate(update_factors(self.placement, size / ranks)):
                factors[index] += updates * factor
        rest = self.rest.predict([len(global_batch_sizes) * factor for factor in _rest_factors(self.placement)])
        return self.updates.predict(factors) + rest

    def start_s(self) -> Estimate:
        """Of an attempt: from the quickest to the slowest that was seen, of as many ranks if there were such."""
        alike = [start.start_s for start in self.starts if start.placement == self.placement]
        seen = alike or [start.start_s for start in self.starts]
        return Estimate(min(seen), sum(seen) / len(seen), max(seen))

    def trial_s(self, global_batch_sizes: Sequence[int], walltime_s: float = math.inf) -> Estimate:
        """A whole trial: its epochs, and a start in each of the allocations that they take."""
        epochs, start = self.epochs_s(global_batch_sizes), self.start_s()
        if not epochs.is_bounded:
            return epochs + start
        return Estimate(
            *(
                seconds + start_s * _allocations(seconds, start_s, walltime_s)
                for seconds, start_s in (
                    (epochs.low, start.low),
                    (epochs.expected, start.expected),
                    (epochs.high, start.high),
                )
            )
        )


_LEAST_S = 1e-3
"""Below it, an epoch's rest is rounding."""


def _rest_factors(placement: Placement) -> tuple[float, float, float]:
    """Of what rank 0 does alone (the checkpoint), what each rank does, and what they divide (the evaluation)."""
    shared = placement.ranks_per_core
    return 1.0, shared, shared / placement.ranks


def _updates(train_samples: int, ranks: int, global_batch_size: int) -> int:
    """Of an epoch; samples that do not fill an update sit it out."""
    return (train_samples // ranks) // max(1, global_batch_size // ranks)


def _allocations(epochs_s: float, start_s: float, walltime_s: float) -> int:
    if math.isinf(walltime_s):
        return 1
    return max(1, math.ceil(epochs_s / max(walltime_s - start_s, walltime_s / 10)))


def schedules(workloads: Sequence[Workload], epochs: int) -> list[list[int]]:
    """The batch sizes of each trial's epochs: all that are possible, or the two extremes where none is known."""
    found: list[list[int]] = []
    for workload in workloads:
        if workload.schedule:
            found.append(workload.schedule)
        else:
            found += [[size] * epochs for size in {workload.global_batch_sizes[0], workload.global_batch_sizes[-1]}]
    return found


def constant_schedules(workloads: Sequence[Workload], epochs: int) -> list[list[int]]:
    """The same trials with their smallest batch to the end: the arm that a switch is compared with."""
    return [[size] * epochs for size in sorted({workload.global_batch_sizes[0] for workload in workloads})]


@dataclass(frozen=True)
class StudyForecast:
    """What a study's trials will take, all together."""

    trial_s: Estimate
    node_hours: Estimate
    wall_s: Estimate
    """From when the first of them starts, with as many at once as the site allows, to the end of the last one."""

    @classmethod
    def of(cls, trial_s: Estimate, trials: int, slots: int, nodes: int) -> StudyForecast:
        rounds = math.ceil(trials / slots)
        # Some slot trains at least so many one after the other.
        return cls(trial_s, trial_s.times(trials * nodes / 3600), trial_s.times(rounds))
