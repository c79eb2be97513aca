"""The learning curves of trials that train nothing, under successive halving: the same for us and the peers."""

from __future__ import annotations

EPOCHS = 9
FACTOR = 3


def score(number: int, epoch: int) -> float:
    """A trial's after an epoch, from 0. The trials' last scores lie evenly between 0 and 1, in no order."""
    golden_ratio = 0.6180339887
    return (number * golden_ratio % 1) * (1 - 0.5 ** (epoch + 1))
