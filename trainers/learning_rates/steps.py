"""The optimizer's rate, cut at given epochs, after a warm-up if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trainers.components import ComponentError
from trainers.learning_rates import check_warm_up, warm_up_share


def build(epochs: int, *, at_epochs: list[int], factor: float = 0.1, warmup_epochs: float = 0.0) -> Steps:
    """
    Args:
        epochs: Of the training.
        at_epochs: Epochs, from 0, at whose beginning the rate is multiplied by the factor.
        factor: Of each cut.
        warmup_epochs: Epochs over which the rate grows linearly from 0.

    Raises:
        ComponentError: An option is out of its range.
    """
    check_warm_up("steps", warmup_epochs, epochs)
    if any(not 0 < epoch < epochs for epoch in at_epochs) or any(a >= b for a, b in pairwise(at_epochs)):
        raise ComponentError(f"steps: at_epochs={at_epochs!r}; they must ascend, between 1 and {epochs - 1}.")
    if not 0 < factor < 1:
        raise ComponentError(f"steps: factor={factor!r}; it must be between 0 and 1.")
    return Steps(tuple(at_epochs), factor, warmup_epochs)


@dataclass(frozen=True)
class Steps:
    at_epochs: Sequence[int]
    factor: float
    warmup_epochs: float

    def share(self, epoch: float) -> float:
        cuts = sum(epoch >= at for at in self.at_epochs)
        return warm_up_share(epoch, self.warmup_epochs) * self.factor**cuts
