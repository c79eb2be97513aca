"""How a global batch size becomes optimizer updates: the arithmetic of the paper's Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    def updates(self, samples: int) -> int:
        """Updates that a rank makes of `samples` samples. Fewer than local_batch_size of them are left over, so that
        all updates have one shape."""
        return samples // self.local_batch_size

    def loader_batches(self, samples: int) -> int:
        """Loader batches that these updates come in; the last one may hold fewer updates than the others."""
        return math.ceil(self.updates(samples) / self.split)


def plan_batch(global_batch_size: int, world_size: int, loader_batch_size: int) -> BatchPlan:
    """Cut loader batches of `loader_batch_size` samples a rank into updates of `global_batch_size` samples.

    Raises:
        BatchPlanError: The batch does not split evenly over the ranks, or the loader batch not into such batches.
    """
    if world_size < 1 or loader_batch_size < 1:
        raise BatchPlanError(f"world_size={world_size}, loader_batch_size={loader_batch_size}; use at least 1 of each.")
    local_batch_size, left_over = divmod(global_batch_size, world_size)
    nearest = _nearest_valid(global_batch_size, world_size, loader_batch_size)
    if global_batch_size < 1 or left_over:
        raise BatchPlanError(
            f"global_batch_size={global_batch_size} does not split evenly over {world_size} ranks; use {nearest}."
        )
    if local_batch_size > loader_batch_size:
        raise BatchPlanError(
            f"global_batch_size={global_batch_size} needs {local_batch_size} samples of each of {world_size} ranks at "
            f"once, but loader_batch_size={loader_batch_size}; set loader_batch_size to {local_batch_size} or a "
            f"multiple, or use global_batch_size={nearest}."
        )
    if loader_batch_size % local_batch_size:
        raise BatchPlanError(
            f"global_batch_size={global_batch_size} is {local_batch_size} samples on each of {world_size} ranks, which "
            f"does not divide loader_batch_size={loader_batch_size} evenly; use {nearest}."
        )
    return BatchPlan(loader_batch_size, split=loader_batch_size // local_batch_size)


def plan_parts(local_batch_sizes: Sequence[int], accumulation_steps: int) -> int:
    """Samples of which a rank computes the gradient at once: the largest batch is cut into accumulation_steps parts,
    and a smaller one into parts as large, if it is larger than one.

    Args:
        local_batch_sizes: Samples of an update on one rank, of each phase.

    Raises:
        BatchPlanError: A batch does not divide into such parts.
    """
    largest = max(local_batch_sizes)
    part_size, left_over = divmod(largest, accumulation_steps)
    if left_over:
        steps = [n for n in range(1, largest + 1) if largest % n == 0]
        nearest = min(steps, key=lambda n: (abs(n - accumulation_steps), n))
        raise BatchPlanError(
            f"accumulation_steps={accumulation_steps} does not divide the {largest} samples of a rank's largest batch; "
            f"use {nearest}."
        )
    for size in local_batch_sizes:
        if size > part_size and size % part_size:
            raise BatchPlanError(
                f"accumulation_steps={accumulation_steps} makes parts of {part_size} samples, of which a batch of "
                f"{size} samples a rank is no multiple; use {largest // math.gcd(largest, *local_batch_sizes)}."
            )
    return part_size


def evaluation_batch_size(samples: int, loader_batch_size: int) -> int:
    """Samples per batch of an evaluation: as few batches as loader_batch_size allows, with the least padding."""
    batches = max(1, math.ceil(samples / loader_batch_size))
    return max(1, math.ceil(samples / batches))


def _nearest_valid(size: int, world_size: int, loader_batch_size: int) -> str:
    """The next sizes below and above that can be planned, in words."""
    divisors = [n for n in range(1, math.isqrt(loader_batch_size) + 1) if loader_batch_size % n == 0]
    valid = {n * world_size for divisor in divisors for n in (divisor, loader_batch_size // divisor)}
    below = max((n for n in valid if n < size), default=None)
    above = min((n for n in valid if n > size), default=None)
    return " or ".join(str(n) for n in (below, above) if n is not None)
