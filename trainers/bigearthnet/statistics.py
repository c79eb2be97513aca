"""Mean and standard deviation of each band over a prepared split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainers.bigearthnet.bands import BAND_SETS, ROW_DTYPE, VALUES_PER_PATCH, Band
from trainers.bigearthnet.prepared import Manifest
from trainers.datasets import DatasetError, Split

_ROWS_AT_ONCE = 64


def band_statistics(
    folder: Path, manifest: Manifest, split: Split, on_rows: Callable[[int], None] = lambda rows: None
) -> dict[Band, tuple[float, float]]:
    """(mean, standard deviation) of each band's digital numbers, at its own resolution, in the satellite's order.

    Raises:
        DatasetError: The split is empty.
    """
    patches = manifest.splits[split].patches
    if patches == 0:
        raise DatasetError(f"the split {split} of {folder} holds no patch.")
    bands = BAND_SETS["all"]
    # Integers: the sums are exact, whatever their order. 65535^2 x 14,400 pixels x 300,000 patches is 2^64 and a bit,
    # and no land reflects that much.
    sums, squares = np.zeros((2, len(bands)), np.uint64)
    for shard in manifest.splits[split].shards:
        if shard.patches == 0:
            continue
        rows = np.memmap(folder / shard.path, ROW_DTYPE, "r").reshape(-1, VALUES_PER_PATCH)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = rows[start : start + _ROWS_AT_ONCE]
            for index, band in enumerate(bands):
                pixels = block[:, band.offset : band.stop].astype(np.uint64)
                sums[index] += pixels.sum()
                squares[index] += np.einsum("ij,ij->", pixels, pixels)
            on_rows(len(block))
    statistics = {}
    for band, total, square in zip(bands, sums.tolist(), squares.tolist(), strict=True):
        count = patches * band.size**2
        # Integers up to the last division: a mean square minus a squared mean loses digits in floating point.
        variance = (square * count - total**2) / count**2
        statistics[band] = (total / count, variance**0.5)
    return statistics
