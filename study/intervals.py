"""Mean, deviation and interval of a score over the seeds of one configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from storage.protocol.exports import SeedInterval

CONFIDENCE = 0.95


def over_seeds(values: Sequence[float]) -> SeedInterval:
    """Summarise one score of several trainings that differ in their seed alone.

    Args:
        values: One per seed; at least one.

    Source: Student's t interval of a mean, as scipy.stats.t.interval.
    """
    mean, count = fmean(values), len(values)
    if count == 1:
        return SeedInterval(count, mean, None, None, None)
    # Imported here: SciPy takes half a second.
    from scipy.special import stdtrit

    deviation = stdev(values)
    half_width = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(count)
    return SeedInterval(count, mean, deviation, mean - half_width, mean + half_width)
