"""The input pipeline: which samples a rank reads in an epoch, read ahead of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainers.datasets import OrderedSource, SampleSource

# One batch in the making while one waits: reading hides behind training, and memory holds three batches at most.
_BATCHES_AHEAD = 2

Batch = tuple[tf.Tensor, tf.Tensor]


def training_order(samples: int, seed: int, epoch: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """Indices that one rank trains on in one epoch, in order: int64 [samples // world_size].

    The epoch's permutation is dealt to the ranks like cards, so that N ranks with b samples each make the same
    updates as one rank with N b samples. The fewer than world_size samples that are left over sit this epoch out;
    the next epoch's permutation leaves out others.
    """
    permutation = np.random.default_rng([seed, epoch]).permutation(samples)
    return permutation[rank::world_size][: samples // world_size]


def evaluation_order(samples: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """Indices that one rank evaluates: over all ranks every sample once, uneven shards included."""
    return np.arange(rank, samples, world_size)


def training_order_of(source: SampleSource, seed: int, epoch: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """The source's own order if it has one: some are read best in large pieces."""
    if isinstance(source, OrderedSource):
        return source.training_order(seed, epoch, rank, world_size)
    return training_order(len(source), seed, epoch, rank, world_size)


def evaluation_order_of(source: SampleSource, rank: int, world_size: int) -> NDArray[np.int64]:
    """The source's own order if it has one."""
    if isinstance(source, OrderedSource):
        return source.evaluation_order(rank, world_size)
    return evaluation_order(len(source), rank, world_size)


def read_batches(source: SampleSource, order: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
    """Hand over `order` in batches as stored samples [n, *sample_shape] and labels uint8 [n, classes].

    The last batch may be shorter.
    """

    def read(start: int) -> Batch:
        samples, labels = source.read(order[start : start + batch_size])
        # Converted here, so that the copy to the device is off the training thread too.
        return tf.convert_to_tensor(samples), tf.convert_to_tensor(labels)

    starts = iter(range(0, len(order), batch_size))
    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as reader:
        try:
            for start in starts:
                pending.append(reader.submit(read, start))
                if len(pending) > _BATCHES_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
