"""Half a cosine from the optimizer's rate down to a share of it, after a warm-up if there is one.

Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainers.components import ComponentError
from trainers.learning_rates import check_warm_up, warm_up_share


def build(epochs: int, *, warmup_epochs: float = 0.0, final_share: float = 0.0) -> Cosine:
    """
    Args:
        epochs: Of the training; the cosine ends with it.
        warmup_epochs: Epochs over which the rate grows linearly from 0; the cosine begins after them.
        final_share: Of the optimizer's rate, at the end.

    Raises:
        ComponentError: An option is out of its range.
    """
    check_warm_up("cosine", warmup_epochs, epochs)
    if not 0 <= final_share <= 1:
        raise ComponentError(f"cosine: final_share={final_share!r}; it must be in [0, 1].")
    return Cosine(epochs, warmup_epochs, final_share)


@dataclass(frozen=True)
class Cosine:
    epochs: int
    warmup_epochs: float
    final_share: float

    def share(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            return warm_up_share(epoch, self.warmup_epochs)
        passed = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * passed)) / 2
