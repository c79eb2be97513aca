"""How fast the ranks read their training data, all at once and beside nothing else."""

from __future__ import annotations

import time

import numpy as np

from storage.protocol.gpu_check import InputFacts
from storage.protocol.records import TrialSpec
from trainers.communicator import Communicator
from trainers.datasets import Dataset, Split
from trainers.loader import read_batches, training_order_of

_READ_S = 15.0


def measure_input(spec: TrialSpec, dataset: Dataset, batch_size: int, communicator: Communicator) -> InputFacts:
    """Read as an epoch does, for some seconds or to the epoch's end. A collective.

    Args:
        batch_size: Samples that a rank reads at once.

    Raises:
        DatasetError: The data cannot be opened; on the rank that found out.
    """
    with communicator.rank_zero_first():
        source = dataset.open(Split.TRAIN)
    order = training_order_of(source, spec.seed, 0, communicator.rank, communicator.world_size)
    communicator.max(0)
    started_s, read = time.perf_counter(), 0
    for batch in read_batches(source, order, batch_size):
        read += batch.sample_count
        if time.perf_counter() - started_s > _READ_S:
            break
    taken_s = time.perf_counter() - started_s
    # The sum of rates: a rank that is through earlier leaves the others the file system.
    samples, rate = communicator.sum(np.array([read, read / taken_s], np.float64))
    return InputFacts(int(samples), float(rate))
