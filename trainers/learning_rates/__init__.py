"""Learning-rate schedules: the rate of each update, as a share of the optimizer's own.

A schedule is a pure function of the place in the training, counted in epochs, so that it knows nothing of batch sizes
and a resumed trial needs no state of it: where the batch grows, fewer updates pass through the same curve.
`build(epochs, *, options...)` gives a `LearningRate`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.components import ComponentError


class LearningRate(Protocol):
    def share(self, epoch: float) -> float:
        """Of the optimizer's rate, at a place in [0, epochs], such as 2.5 for the middle of the third epoch."""
        ...


def rates_of_updates(
    schedule: LearningRate, base: float, epoch: int, first: int, count: int, updates_of_epoch: int
) -> NDArray[np.float32]:
    """The rates of some updates of an epoch: float32 [count]. Each update takes that of its middle.

    Args:
        base: The optimizer's own rate.
        epoch: From 0.
        first: Number of the first of these updates in its epoch, from 0.
        updates_of_epoch: How many the epoch has in all.
    """
    places = epoch + (np.arange(first, first + count) + 0.5) / updates_of_epoch
    return np.array([base * schedule.share(float(place)) for place in places], np.float32)


def warm_up_share(epoch: float, warmup_epochs: float) -> float:
    """Linear from 0 to 1 over the first epochs (Goyal et al. 2017, arXiv:1706.02677, section 2.2); 1 without any."""
    return min(epoch / warmup_epochs, 1.0) if warmup_epochs else 1.0


def check_warm_up(component: str, warmup_epochs: float, epochs: int) -> None:
    """
    Raises:
        ComponentError: The warm-up is negative, or takes the whole training.
    """
    if not 0 <= warmup_epochs < epochs:
        raise ComponentError(
            f"{component}: warmup_epochs={warmup_epochs!r}; it must be at least 0 and below training.epochs={epochs}."
        )
