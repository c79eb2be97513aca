"""One global batch size for the whole training: the paper's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.protocol.records import EpochMetrics


@dataclass(frozen=True)
class Constant:
    size: int

    @property
    def global_batch_sizes(self) -> tuple[int, ...]:
        return (self.size,)

    def global_batch_size(self, epoch: int, history: Sequence[EpochMetrics]) -> int:
        return self.size


def build(*, global_batch_size: int) -> Constant:
    return Constant(global_batch_size)
