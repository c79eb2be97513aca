"""How much a trial trains: what the trainer, who knows data sets and batch policies, tells the driver."""

from __future__ import annotations

from dataclasses import dataclass

WORKLOAD_FILE = "workload.json"


@dataclass(frozen=True)
class Workload:
    """A trial's samples and batches: WORKLOAD_FILE beside the specification that the preflight has checked."""

    train_samples: int
    """Over all ranks."""
    global_batch_sizes: list[int]
    """Every size that may be asked for, ascending."""
    schedule: list[int]
    """Global batch size of each epoch; empty where it depends on how the training goes."""
