"""Estimates with 95 % intervals, as pure functions of numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

CONFIDENCE = 0.95
POWER = 0.8
FEW = 10
"""Values below which a bootstrap's interval is too narrow to rely on."""
MIN_RESAMPLED = 3
"""Values below which a bootstrap has nothing to resample."""

_RESAMPLES = 9999
_BATCH_VALUES = 2_000_000
# The same rows give the same report.
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, which is absent where there are too few values for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None

    def contains(self, value: float) -> bool:
        """Whether the interval contains a value; without an interval nothing is ruled out."""
        return self.low is None or self.high is None or self.low <= value <= self.high

    def overlaps(self, other: Estimate) -> bool:
        """Whether two intervals share a value; without an interval nothing is ruled out."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


class Correlation(StrEnum):
    """How alike two orders of the same things are: 1 the same, 0 unrelated, -1 the reverse."""

    SPEARMAN = "Spearman"
    KENDALL = "Kendall"


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one configuration's trials, with Student's interval: a bootstrap of so few is too narrow.

    Raises:
        ValueError: There are none.
    """
    _require_values(values)
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean)
    from scipy import stats

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def mean_difference(differences: Sequence[float]) -> Estimate:
    """The mean of differences by configuration, with the bootstrap's BCa interval over the configurations.

    Raises:
        ValueError: There are none.
    """
    _require_values(differences)
    values = np.asarray(differences, float)
    return _bootstrap((values,), lambda sample, axis=-1: np.mean(sample, axis=axis), method="BCa")


def ratio_of_means(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """mean(numerators) / mean(denominators) of paired values, with the bootstrap's percentile interval over the pairs.

    Raises:
        ValueError: There are none, or not as many of both, or a denominator is not above 0.
    """
    _require_values(numerators)
    if len(numerators) != len(denominators) or min(denominators) <= 0:
        raise ValueError(f"{len(numerators)} numerators, {len(denominators)} denominators, which must be above 0")

    def ratio(numerator: Any, denominator: Any, axis: int = -1) -> Any:
        return np.mean(numerator, axis=axis) / np.mean(denominator, axis=axis)

    return _bootstrap((np.asarray(numerators, float), np.asarray(denominators, float)), ratio, method="percentile")


def rank_correlation(first: Sequence[float], second: Sequence[float], kind: Correlation) -> Estimate | None:
    """The rank correlation of paired values, with the bootstrap's percentile interval over the pairs.

    Gives None where it is undefined: fewer than three pairs, or all values of one side are equal.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are not pairs")
    if len(first) < MIN_RESAMPLED or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    correlate = _spearman if kind is Correlation.SPEARMAN else _kendall
    return _bootstrap((np.asarray(first, float), np.asarray(second, float)), correlate, method="percentile")


def top_agreement(first: Sequence[float], second: Sequence[float], count: int) -> int | None:
    """How many of the `count` highest of `first` are among the `count` highest of the paired `second`.

    Gives None where there are not more pairs than that: everything would agree.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are not pairs")
    if len(first) <= count:
        return None
    return len(_top(first, count) & _top(second, count))


def detectable_difference(differences: Sequence[float]) -> float | None:
    """The smallest true mean difference that so many pairs, scattering like these, show in 80 % of the cases.

    Gives None for fewer than three pairs.
    """
    if len(differences) < MIN_RESAMPLED:
        return None
    from scipy import stats

    freedom = len(differences) - 1
    quantiles = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) + stats.t.ppf(POWER, freedom)
    return float(quantiles * np.std(differences, ddof=1) / math.sqrt(len(differences)))


@dataclass(frozen=True)
class Band:
    """The values of several trials in one epoch."""

    mean: float
    low: float
    """The 10th percentile."""
    high: float
    """The 90th percentile."""
    count: int


def bands(curves: Sequence[Sequence[float | None]]) -> list[Band | None]:
    """One band per epoch over the trials that reached it: one that ended early shortens no other."""
    length = max(map(len, curves), default=0)
    columns = [
        [value for curve in curves if epoch < len(curve) and (value := curve[epoch]) is not None]
        for epoch in range(length)
    ]
    return [_band(column) if column else None for column in columns]


def _band(values: Sequence[float]) -> Band:
    low, high = np.percentile(values, [10, 90])
    return Band(float(np.mean(values)), float(low), float(high), len(values))


def _spearman(first: Any, second: Any, axis: int = -1) -> Any:
    """Pearson's correlation of the ranks, for many resamples at once; SciPy's own takes them one by one."""
    from scipy.stats import rankdata

    x, y = (rankdata(values, axis=axis) for values in (first, second))
    x, y = (ranks - ranks.mean(axis=axis, keepdims=True) for ranks in (x, y))
    return (x * y).sum(axis=axis) / np.sqrt((x * x).sum(axis=axis) * (y * y).sum(axis=axis))


def _kendall(first: Any, second: Any, axis: int = -1) -> Any:
    """Kendall's tau-b, for many resamples at once."""
    x, y = (np.sign(values[..., :, None] - values[..., None, :]) for values in (first, second))
    both = (-2, -1)
    return (x * y).sum(axis=both) / np.sqrt((x * x).sum(axis=both) * (y * y).sum(axis=both))


def _bootstrap(samples: tuple[Any, ...], statistic: Callable[..., Any], method: str) -> Estimate:
    value = float(statistic(*samples))
    if len(samples[0]) < MIN_RESAMPLED:
        return Estimate(value)
    if all(len(set(sample.tolist())) == 1 for sample in samples):
        # BCa divides by their scatter.
        return Estimate(value, value, value)
    from scipy import stats

    with warnings.catch_warnings():
        # Of a resample whose values are all equal: it has no correlation, and is left out below.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            samples,
            statistic,
            paired=len(samples) > 1,
            vectorized=True,
            n_resamples=_RESAMPLES,
            # Kendall's takes the square of it, eight bytes each.
            batch=max(1, _BATCH_VALUES // len(samples[0]) ** 2),
            confidence_level=CONFIDENCE,
            method=method,
            rng=np.random.default_rng(_SEED),
        )
        low, high = result.confidence_interval
        if not (math.isfinite(low) and math.isfinite(high)):
            tail = 100 * (1 - CONFIDENCE) / 2
            low, high = np.nanpercentile(result.bootstrap_distribution, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def _top(values: Sequence[float], count: int) -> set[int]:
    # Of equal ones, the first: the sort is stable.
    return set(sorted(range(len(values)), key=lambda index: -values[index])[:count])


def _require_values(values: Sequence[float]) -> None:
    if not values:
        raise ValueError("there are no values to estimate from")
