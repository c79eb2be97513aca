"""Costs from measured times, by least squares, and what they say of times that were not measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_REWEIGHTINGS = 8
_LEAST = 1e-3
"""Of a measured time: what a fit that explains nothing of it is taken for."""
_NO_BOUND = math.log(1e6)
"""Measurements that contradict one another by as much as this say nothing."""
_SAME = 1e-6
"""By how much sums of floats may differ, relatively, and be the same."""


class TooFewMeasurementsError(ValueError):
    """Nothing is left over from which the measurements' own spread could be told."""


@dataclass(frozen=True)
class Estimate:
    """What is expected, and between which bounds it lies."""

    low: float
    expected: float
    high: float
    """Infinite where the measurements do not bound it."""

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> Estimate:
        return Estimate(self.low * factor, self.expected * factor, self.high * factor)

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.high)

    @classmethod
    def spanning(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Of something that is one of several, nobody knows which."""
        low, high = min(each.low for each in estimates), max(each.high for each in estimates)
        expected = [each.expected for each in estimates]
        return cls(low, (min(expected) + max(expected)) / 2, high)


@dataclass(frozen=True)
class CostFit:
    """Costs, none of them negative, whose sums come closest to the measured times.

    Errors are taken as relative: a time of a second is no better known than one of a minute.
    """

    costs: tuple[float, ...]
    relative_error: float
    """Standard deviation of one measurement around the fit."""
    degrees_of_freedom: int
    rows: NDArray[np.float64]
    """Factors of each measurement, over the time that is fitted to it."""

    @classmethod
    def of(cls, factors: Sequence[Sequence[float]], times_s: Sequence[float]) -> CostFit:
        """Fit.

        Args:
            factors: How often each measurement pays each cost.
            times_s: Of each measurement; positive.

        Raises:
            TooFewMeasurementsError: There are no more measurements than costs that they tell apart.
        """
        # Imported here: SciPy's optimizers take half a second.
        from scipy.optimize import nnls

        measured = np.asarray(times_s, np.float64)
        paid = np.asarray(factors, np.float64)
        rank = len(_basis(paid / _norms(paid))) if len(paid) else 0
        if len(paid) <= rank:
            raise TooFewMeasurementsError(f"{len(paid)} measurements for {rank} costs; at least {rank + 1} are needed.")
        fitted = measured
        for _ in range(_REWEIGHTINGS):
            rows = paid / fitted[:, np.newaxis]
            scaled, _ = nnls(rows / _norms(rows), measured / fitted)
            costs = scaled / _norms(rows)
            # Relative to what is fitted: relative to what was measured, a slow epoch would count less than a quick one.
            fitted = np.maximum(paid @ costs, _LEAST * measured)
        freedom = len(paid) - rank
        error = math.sqrt(float(np.sum((measured / fitted - 1) ** 2)) / freedom)
        return cls(tuple(map(float, costs)), error, freedom, paid / fitted[:, np.newaxis])

    def predict(self, factors: Sequence[float]) -> Estimate:
        """The time of something that pays each cost so often.

        The interval is that of a further measurement, by Student's t. Costs that the measurements do not tell apart (a
        fixed one and one per sample, where all had one batch size) widen it from one extreme to the other; a cost that
        none of them paid leaves it without a bound.
        """
        from scipy.special import stdtrit

        wanted = np.asarray(factors, np.float64)
        low, high = self._range(wanted)
        expected = (low + high) / 2 if math.isfinite(high) else high
        relative = wanted / expected if 0 < expected < math.inf else np.zeros_like(wanted)
        told_apart = np.linalg.pinv(self.rows / _norms(self.rows)) / _norms(self.rows)[:, np.newaxis]
        leverage = float(np.sum((relative @ told_apart) ** 2))
        deviation = self.relative_error * math.sqrt(1 + max(0.0, leverage))
        # Of the logarithm, so that no time comes out negative.
        exponent = float(stdtrit(self.degrees_of_freedom, (1 + CONFIDENCE) / 2)) * deviation
        if exponent > _NO_BOUND:
            return Estimate(0.0, expected, math.inf)
        width = math.exp(exponent)
        return Estimate(low / width, expected, high * width)

    def _range(self, wanted: NDArray[np.float64]) -> tuple[float, float]:
        """The least and the largest time, over all costs that fit the measurements as well as these."""
        from scipy.optimize import linprog

        scale = _norms(self.rows)
        scaled, costs = wanted / scale, np.asarray(self.costs) * scale
        time_s = float(scaled @ costs)
        told_apart = _basis(self.rows / scale)
        hidden = scaled - told_apart.T @ (told_apart @ scaled)
        unit = float(np.linalg.norm(scaled))
        if float(np.linalg.norm(hidden)) <= _SAME * unit:
            return time_s, time_s
        ends = []
        for sign in (1, -1):
            found = linprog(sign * scaled / unit, A_eq=told_apart, b_eq=told_apart @ costs)
            ends.append(sign * found.fun * unit if found.success else sign * -math.inf)
        return max(0.0, min(ends[0], time_s)), max(ends[1], time_s)


def _norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column, to divide by: costs differ by orders of magnitude, which no solver's tolerance knows."""
    norms = np.linalg.norm(rows, axis=0)
    return np.where(norms > 0, norms, 1.0)


def _basis(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal rows that span the same costs."""
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    return directions[sizes > _SAME * sizes[0]]
