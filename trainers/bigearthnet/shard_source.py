"""Samples that lie in shards on a parallel file system, which likes large reads and few files.

In an epoch, the shards are put in a random order and the ranks take equal parts of it, so that each rank reads its own
shards and no other (but for the two at its ends). There it visits runs of neighbouring rows in a random order, one
large read each, and mixes the rows of a window of runs. Prepare has put the patches into the shards at random, so that
a run is no neighbourhood on the ground.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.bigearthnet.bands import BYTES_PER_PATCH, ROW_DTYPE
from trainers.datasets import DatasetError

RUN = 16
"""Rows: 2.6 MB, about what one request of a parallel file system carries."""

# The archive's splits have up to 264 shards of the default size; a process may usually open 1,024 files.
_OPEN_SHARDS = 300

# Linux takes up to 1,024 buffers in one system call.
_BUFFERS_PER_CALL = 512


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Rows of shards, or the first `values` of each row. For one thread at a time."""

    paths: tuple[Path, ...]
    patches: tuple[int, ...]
    """Of each shard."""
    labels: NDArray[np.uint8]
    values: int
    shuffle_window: int
    _files: OrderedDict[int, FileIO] = field(default_factory=OrderedDict, repr=False)

    sample_dtype = ROW_DTYPE

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sample_shape(self) -> tuple[int]:
        return (self.values,)

    def read(self, indices: NDArray[np.int64], out: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Write samples into out, uint16 [n, values]; gives labels uint8 [n, 19].

        Raises:
            DatasetError: A shard is cut short or gone.
        """
        size = self.values * ROW_DTYPE.itemsize
        memory = out.reshape(-1).view(np.uint8).data
        for shard, row, positions in self._pieces(indices):
            self._read_piece(shard, row, [memory[position * size : (position + 1) * size] for position in positions])
        return self.labels[indices]

    def training_order(self, seed: int, epoch: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """Rows that one rank trains on in one epoch, in order: int64 [samples // world_size]."""
        rng = np.random.default_rng([seed, epoch])
        shards = rng.permutation(len(self.patches))
        per_rank, left_over = divmod(len(self), world_size)
        # Those that are left over lie before the part of any rank, or behind the last one's: each epoch elsewhere.
        start = rank * per_rank + (left_over if rank >= rng.integers(world_size + 1) else 0)
        mine = self._rows_of(shards, start, start + per_rank)
        own_rng = np.random.default_rng([seed, epoch, rank])
        runs = [mine[start : start + RUN] for start in range(0, len(mine), RUN)]
        order = np.concatenate([runs[index] for index in own_rng.permutation(len(runs))] or [mine])
        for start in range(0, len(order), self.shuffle_window):
            own_rng.shuffle(order[start : start + self.shuffle_window])
        return order

    def evaluation_order(self, rank: int, world_size: int) -> NDArray[np.int64]:
        """Rows that one rank evaluates: its part of the shards, one after the other; over all ranks every row once."""
        bounds = np.arange(world_size + 1) * len(self) // world_size
        return np.arange(bounds[rank], bounds[rank + 1])

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """Of each shard, and the number of all rows."""
        return np.concatenate([[0], np.cumsum(self.patches)]).astype(np.int64)

    def _rows_of(self, shards: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
        """Rows start to stop of the shards put one after the other in this order."""
        counts = np.asarray(self.patches, np.int64)[shards]
        ends = np.cumsum(counts)
        parts = []
        for shard, count, end in zip(shards, counts, ends, strict=True):
            first, last = max(start, end - count), min(stop, end)
            if first < last:
                offset = self._first_rows[shard] - (end - count)
                parts.append(np.arange(first + offset, last + offset))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _pieces(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, int, list[int]]]:
        """What to read at once: (shard, its first row in the shard, where each row goes), each run in one piece."""
        order = np.argsort(indices, kind="stable")
        rows = indices[order]
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        # A band set that leaves out most of a row does not pay for reading over the gap.
        reads_over_gaps = self.values * ROW_DTYPE.itemsize == BYTES_PER_PATCH
        begins = (np.diff(rows, prepend=-2) != 1) | (np.diff(shards, prepend=-1) != 0) | (not reads_over_gaps)
        starts = np.flatnonzero(begins).tolist()
        # Plain lists: a loop over arrays would cost a fifth of what the reading does.
        of_shard, row_of, position = shards.tolist(), (rows - self._first_rows[shards]).tolist(), order.tolist()
        for start, stop in pairwise([*starts, len(rows)]):
            for part in range(start, stop, _BUFFERS_PER_CALL):
                yield of_shard[part], row_of[part], position[part : min(part + _BUFFERS_PER_CALL, stop)]

    def _read_piece(self, shard: int, row: int, buffers: list[memoryview]) -> None:
        wanted = sum(map(len, buffers))
        offset = row * BYTES_PER_PATCH
        try:
            received = os.preadv(self._file(shard).fileno(), buffers, offset)
        except OSError as error:
            raise DatasetError(f"{self.paths[shard]} cannot be read: {error}.") from error
        while received < wanted:
            # Rare: network file systems may answer with less than was asked for.
            more = os.pread(self._file(shard).fileno(), wanted - received, offset + received)
            if not more:
                raise DatasetError(
                    f"{self.paths[shard]} ends in row {row} of {self.patches[shard]}; delete it and prepare it again."
                )
            _scatter(more, buffers, received)
            received += len(more)

    def _file(self, shard: int) -> FileIO:
        if shard not in self._files:
            if len(self._files) >= _OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = FileIO(self.paths[shard])
        self._files.move_to_end(shard)
        return self._files[shard]


def _scatter(content: bytes, buffers: list[memoryview], start: int) -> None:
    """Copy content to the buffers as if they were one, from byte `start` on."""
    for buffer in buffers:
        if start < len(buffer) and content:
            count = min(len(buffer) - start, len(content))
            buffer[start : start + count] = content[:count]
            content = content[count:]
            start = 0
        elif start >= len(buffer):
            start -= len(buffer)
