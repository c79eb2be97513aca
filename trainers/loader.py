"""The input pipeline: which samples a rank reads in an epoch, read ahead of the training."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainers.datasets import OrderedSource, SampleSource

# One is trained on, one waits, one is in the making: reading hides behind training.
_BATCHES_IN_MEMORY = 3

_ALIGNMENT = 64


class Batch(NamedTuple):
    """Of one shape, however many samples there were: another one would be compiled, or tuned for, when it comes."""

    samples: tf.Tensor
    """As stored, [batch_size, *sample_shape]."""
    labels: tf.Tensor
    """uint8 [batch_size, classes]."""
    sample_count: int
    """Rows that hold a sample. What is behind them is padding: earlier samples or zeros, and labels of zero."""


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
    """Hand over `order` in batches of `batch_size` rows, of which the last one may be padded.

    A batch is there until the next one is asked for; its memory is then read into again.
    """
    buffers = itertools.cycle(_SampleBuffer(batch_size, source) for _ in range(_BATCHES_IN_MEMORY))

    def read(start: int, buffer: _SampleBuffer) -> Batch:
        indices = order[start : start + batch_size]
        labels = source.read(indices, buffer.array[: len(indices)])
        padded = np.zeros((batch_size, *labels.shape[1:]), labels.dtype)
        padded[: len(indices)] = labels
        # To the device here, off the training thread; where that is the CPU, it is the same memory.
        return Batch(tf.identity(buffer.tensor), tf.convert_to_tensor(padded), len(indices))

    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as reader:
        try:
            for start in range(0, len(order), batch_size):
                pending.append(reader.submit(read, start, next(buffers)))
                if len(pending) == _BATCHES_IN_MEMORY:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class _SampleBuffer:
    """Memory of one batch that numpy writes and TensorFlow reads.

    Fresh memory for each batch costs more than reading the batch does: the kernel clears each page, and TensorFlow
    copies what numpy holds.
    """

    def __init__(self, batch_size: int, source: SampleSource) -> None:
        # Not empty: padding is computed on, and what happens to lie in memory may be no sample.
        self.array = _aligned_zeros((batch_size, *source.sample_shape), source.sample_dtype)
        # Lives as long as the array, so that TensorFlow's threads are never the last to let go of Python's memory.
        self.tensor = tf.experimental.dlpack.from_dlpack(self.array.__dlpack__())


def _aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> NDArray[np.integer]:
    """Where TensorFlow's kernels expect a tensor to begin; numpy's own arrays may begin at any multiple of 16."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
