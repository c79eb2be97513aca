"""Batch policies: the global batch size of each epoch.

A policy is a pure function of the past epochs, so a resumed trial needs no policy state. The batch size changes at
epoch boundaries only. `build(*, options...)` gives a `BatchPolicy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from storage.protocol.records import EpochMetrics


class BatchPolicy(Protocol):
    @property
    def global_batch_sizes(self) -> tuple[int, ...]:
        """Every size that the policy may ask for, ascending: each is checked and warmed up before epoch 0."""
        ...

    def global_batch_size(self, epoch: int, history: Sequence[EpochMetrics]) -> int:
        """Samples behind one optimizer update of this epoch, over all ranks.

        Args:
            history: The epochs before this one, oldest first.
        """
        ...
