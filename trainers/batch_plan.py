"""How a global batch size becomes optimizer updates: the arithmetic of the paper's Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class BatchPlanError(ValueError):
    """A batch size does not divide among ranks or loader batches. The message names sizes that do."""


@dataclass(frozen=True)
class BatchPlan:
    """How one loader batch becomes optimizer updates."""

    loader_batch_size: int
    """Samples per rank that the input pipeline hands over at once."""
    split: int
    """Optimizer updates, hence micro-batches, per loader batch."""

    @property
    def local_batch_size(self) -> int:
        return self.loader_batch_size // self.split

    def micro_batches(self, samples: int) -> int:
        """Updates for a loader batch of `samples` samples: the last one of an epoch may hold fewer than the others.

        A short loader batch is cut into as many near-equal pieces as keep each within the local batch size, so no
        sample is dropped and no update rests on a sliver.
        """
        return -(-samples // self.local_batch_size)


def plan_batch(global_batch_size: int, world_size: int, loader_batch_size: int) -> BatchPlan:
    """Cut loader batches of `loader_batch_size` samples a rank into updates of `global_batch_size` samples.

    Raises:
        BatchPlanError: The batch does not split evenly over the ranks, or the loader batch not into such batches.
    """
    if global_batch_size % world_size or global_batch_size < world_size:
        nearest = _nearest(global_batch_size, lambda size: size % world_size == 0, step=1, lowest=world_size)
        raise BatchPlanError(
            f"global_batch_size={global_batch_size} does not split evenly over {world_size} ranks; use {nearest}."
        )
    local_batch_size = global_batch_size // world_size
    if local_batch_size > loader_batch_size:
        raise BatchPlanError(
            f"global_batch_size={global_batch_size} needs {local_batch_size} samples of each of {world_size} ranks at "
            f"once, but loader_batch_size={loader_batch_size}; set loader_batch_size to {local_batch_size} or a "
            f"multiple, or use global_batch_size={loader_batch_size * world_size} or less."
        )
    if loader_batch_size % local_batch_size:
        nearest = _nearest(
            global_batch_size,
            lambda size: size <= loader_batch_size * world_size and loader_batch_size % (size // world_size) == 0,
            step=world_size,
            lowest=world_size,
        )
        raise BatchPlanError(
            f"global_batch_size={global_batch_size} is {local_batch_size} samples on each of {world_size} ranks, which "
            f"does not divide loader_batch_size={loader_batch_size} evenly; use {nearest}."
        )
    return BatchPlan(loader_batch_size, split=loader_batch_size // local_batch_size)


def _nearest(size: int, is_valid: Callable[[int], bool], step: int, lowest: int) -> str:
    """The next valid size below and above, in words."""
    below = next((n for n in range(size - size % step, lowest - 1, -step) if is_valid(n)), None)
    above = next((n for n in range(size - size % step + step, 2 * size + lowest + 1, step) if is_valid(n)), None)
    return " or ".join(str(n) for n in (below, above) if n is not None)
