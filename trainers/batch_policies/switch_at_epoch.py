"""A small batch until an epoch, a large one from it on. The learning rate does not follow.

Source: Aach et al., "Accelerating Hyperparameter Tuning of a Deep Learning Model for Remote Sensing Image
Classification", IGARSS 2022, section 3.4: 512 samples until epoch 20 of 100, 16,384 after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.protocol.records import EpochMetrics


@dataclass(frozen=True)
class SwitchAtEpoch:
    small: int
    large: int
    switch_epoch: int

    def __post_init__(self) -> None:
        if self.small > self.large:
            raise ValueError(
                f"small_global_batch_size={self.small} is above large_global_batch_size={self.large}; exchange them."
            )
        if self.switch_epoch < 0:
            raise ValueError(f"switch_epoch={self.switch_epoch} is negative; epochs count from 0.")

    @property
    def global_batch_sizes(self) -> tuple[int, ...]:
        return tuple(sorted({self.small, self.large}))

    def global_batch_size(self, epoch: int, history: Sequence[EpochMetrics]) -> int:
        return self.small if epoch < self.switch_epoch else self.large


def build(*, small_global_batch_size: int, large_global_batch_size: int, switch_epoch: int) -> SwitchAtEpoch:
    return SwitchAtEpoch(small_global_batch_size, large_global_batch_size, switch_epoch)
