"""Where the windows of a scene lie, and the grid of cells on which what they say is averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tiling:
    """Windows of one size over a scene of at least that size, at a stride of at most that size; all in pixels.

    A cell is a square of stride x stride pixels. The last row and column of windows end at the scene's edge, which may
    lie inside the last cells.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    stride: int

    def tops(self) -> list[int]:
        """The first pixel row of each row of windows."""
        return _starts(self.height, self.tile_height, self.stride)

    def lefts(self) -> list[int]:
        """The first pixel column of each window in a row."""
        return _starts(self.width, self.tile_width, self.stride)

    @property
    def cell_rows(self) -> int:
        return -(-self.height // self.stride)

    @property
    def cell_columns(self) -> int:
        return -(-self.width // self.stride)


def _starts(length: int, tile: int, stride: int) -> list[int]:
    last = length - tile
    return [*range(0, last, stride), last]


class CellRows:
    """Averages windows' probabilities, and holds no more rows of cells than one row of windows touches.

    A cell has the mean over all windows that overlap it, each weighted by the area that they share.
    """

    def __init__(self, tiling: Tiling, class_count: int) -> None:
        rows = -(-(tiling.tile_height - 1) // tiling.stride) + 1
        self._tiling, self._first = tiling, 0
        self._sums = np.zeros((rows, tiling.cell_columns, class_count))
        self._areas = np.zeros((rows, tiling.cell_columns))
        self._has_nodata = np.zeros((rows, tiling.cell_columns), bool)

    def add(self, top: int, left: int, probabilities: NDArray[np.float32]) -> None:
        """Count in a window without nodata: probabilities [classes]."""
        rows, columns = self._cells(top, left)
        area = np.outer(self._shared(rows, top, self._tiling.tile_height), self._shared(columns, left, self._width))
        place = self._place(rows, columns)
        self._areas[place] += area
        self._sums[place] += area[..., None] * probabilities

    def mark(self, top: int, left: int, is_nodata: NDArray[np.bool_]) -> None:
        """Mark the cells with nodata in a window, [tile_height, tile_width]; these have no probabilities."""
        rows, columns = self._cells(top, left)
        of_rows = np.logical_or.reduceat(is_nodata, self._edges(rows, top), axis=0)
        self._has_nodata[self._place(rows, columns)] |= np.logical_or.reduceat(
            of_rows, self._edges(columns, left), axis=1
        )

    def take_above(self, pixel_row: int) -> NDArray[np.float32]:
        """Give the rows of cells that end at this row of pixels or above it, and hold them no more.

        Returns:
            float32 [rows, columns, classes]; NaN where a cell has nodata, or no window without nodata overlaps it.
        """
        count = pixel_row // self._tiling.stride - self._first
        areas = np.where(self._has_nodata[:count], 0, self._areas[:count])[..., None]
        taken = np.full(self._sums[:count].shape, np.nan, np.float32)
        np.divide(self._sums[:count], areas, out=taken, where=areas > 0, casting="same_kind")
        self._first += count
        for held in (self._sums, self._areas, self._has_nodata):
            held[: len(held) - count] = held[count:].copy()
            held[len(held) - count :] = 0
        return taken

    @property
    def _width(self) -> int:
        return self._tiling.tile_width

    def _cells(self, top: int, left: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows and the columns of cells that a window overlaps."""
        stride = self._tiling.stride
        rows = np.arange(top // stride, (top + self._tiling.tile_height - 1) // stride + 1)
        return rows, np.arange(left // stride, (left + self._width - 1) // stride + 1)

    def _place(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[slice, slice]:
        return slice(rows[0] - self._first, rows[-1] + 1 - self._first), slice(columns[0], columns[-1] + 1)

    def _shared(self, cells: NDArray[np.int64], start: int, length: int) -> NDArray[np.int64]:
        """Pixels along one axis that a window from `start` shares with each cell."""
        stride = self._tiling.stride
        shared: NDArray[np.int64] = np.minimum((cells + 1) * stride, start + length) - np.maximum(cells * stride, start)
        return shared

    def _edges(self, cells: NDArray[np.int64], start: int) -> NDArray[np.int64]:
        """Where in a window from `start` each cell begins."""
        return np.maximum(cells * self._tiling.stride - start, 0)
