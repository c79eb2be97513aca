"""The optimizer's rate throughout, after a warm-up if there is one: the paper's, without."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.learning_rates import check_warm_up, warm_up_share


def build(epochs: int, *, warmup_epochs: float = 0.0) -> Constant:
    """
    Args:
        epochs: Of the training.
        warmup_epochs: Epochs over which the rate grows linearly from 0.

    Raises:
        ComponentError: warmup_epochs is out of its range.
    """
    check_warm_up("constant", warmup_epochs, epochs)
    return Constant(warmup_epochs)


@dataclass(frozen=True)
class Constant:
    warmup_epochs: float

    def share(self, epoch: float) -> float:
        return warm_up_share(epoch, self.warmup_epochs)
