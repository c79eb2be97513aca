"""How long one optimizer update takes: a sum of costs, each with a factor that placement and batch give. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Placement:
    """Where the ranks of one trial run."""

    ranks: int
    nodes: int = 1
    ranks_per_core: float = 1.0
    """Threads of all ranks over the cores that they share; 1 where each thread has a core of its own."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= self.ranks:
            raise ValueError(f"{self.ranks} ranks on {self.nodes} nodes; each node has at least one rank.")
        if self.ranks_per_core < 1:
            raise ValueError(f"ranks_per_core={self.ranks_per_core}; cores without a rank are not counted, use 1.")


class UpdateFactors(NamedTuple):
    """How often an update pays each of UpdateCosts."""

    fixed: float
    per_sample: float
    latency: float
    transfer: float
    network_latency: float


@dataclass(frozen=True)
class UpdateCosts:
    """What an update is made of, in seconds."""

    fixed_s: float
    """Whatever the batch: kernels to start, the optimizer, the loop around them."""
    per_sample_s: float
    """Forward and backward pass of one sample on one rank that has its cores to itself."""
    latency_s: float
    """Of a rank in one round of the allreduce, however little it carries: a process that wakes up."""
    transfer_s: float
    """In which a node's link carries one gradient: its bytes / bytes per second."""
    network_latency_s: float = 0.0
    """Of the network in one round between nodes, however little it carries."""
    input_samples_per_s: float = math.inf
    """That the input path brings to all ranks together."""


def update_factors(placement: Placement, local_batch_size: float) -> UpdateFactors:
    """The factors of an update of `local_batch_size` samples on each rank.

    Ranks that share cores take turns, so that what a rank computes takes `ranks_per_core` times as long; so does its
    part in each round of an allreduce, which is a process that wakes up. The network does not slow down with them.
    """
    shared = placement.ranks_per_core
    return UpdateFactors(
        fixed=shared,
        per_sample=shared * local_batch_size,
        latency=shared * allreduce_rounds(placement.ranks),
        transfer=gradients_carried(placement),
        network_latency=allreduce_rounds(placement.nodes),
    )


def update_s(costs: UpdateCosts, placement: Placement, local_batch_size: float) -> float:
    """Seconds of one update. Reading ahead hides the input unless it is slower than the computing."""
    factors = update_factors(placement, local_batch_size)
    computing_s = factors.fixed * costs.fixed_s + factors.per_sample * costs.per_sample_s
    input_s = placement.ranks * local_batch_size / costs.input_samples_per_s
    return max(computing_s, input_s) + allreduce_s(costs, placement)


def allreduce_s(costs: UpdateCosts, placement: Placement) -> float:
    """Seconds of averaging one gradient over all ranks."""
    factors = update_factors(placement, 0)
    return (
        factors.latency * costs.latency_s
        + factors.transfer * costs.transfer_s
        + factors.network_latency * costs.network_latency_s
    )


def allreduce_rounds(participants: int) -> int:
    """Messages that a rank, or a node, waits for, the one after the other: a reduction along a tree, and the way back.

    Source: Rabenseifner's allreduce, and NCCL's trees from 2.4 on. A ring has 2 (participants - 1).
    """
    return 2 * math.ceil(math.log2(participants))


def gradients_carried(placement: Placement) -> float:
    """Gradients that a node's link carries in each direction during an allreduce; ranks of one node need no link.

    Source: Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002: no allreduce sends less than
    2 (ranks - 1) / ranks of its vector, and a ring, which enters and leaves each node once, sends no more.
    """
    return 2 * (placement.ranks - 1) / placement.ranks if placement.nodes > 1 else 0.0
