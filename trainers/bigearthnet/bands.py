"""The twelve bands, and how a patch lies in a shard: as one row of 80,000 uint16, each band at its own resolution.

The finest bands come first, so that a band set is the beginning of a row and the rest need not be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARD_FORMAT = 1
"""Counted up when the same archive would give other shards."""

PATCH_SIZE = 120
"""Height and width of a patch in pixels of 10 m: 1,200 m."""

STATISTICS = {
    "B01": (340.77, 554.81),
    "B02": (429.94, 572.42),
    "B03": (614.22, 582.88),
    "B04": (590.24, 675.89),
    "B05": (950.68, 729.90),
    "B06": (1792.46, 1096.01),
    "B07": (2075.47, 1273.45),
    "B08": (2218.95, 1365.46),
    "B8A": (2266.46, 1356.14),
    "B09": (2246.06, 1302.33),
    "B11": (1594.43, 1079.19),
    "B12": (1009.33, 818.87),
}
"""Mean and standard deviation of each band, digital numbers over BigEarthNet, in the satellite's order of bands."""

_SIZES = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 120),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 60),
    **dict.fromkeys(("B01", "B09"), 20),
}


@dataclass(frozen=True)
class Band:
    name: str
    size: int
    """Height and width of a patch, in pixels of this band."""
    offset: int
    """Of its first value in a row."""
    mean: float
    std: float

    @property
    def stop(self) -> int:
        return self.offset + self.size**2

    @property
    def resolution_m(self) -> int:
        return PATCH_SIZE * 10 // self.size

    def of(self, row: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """This band's pixels in a row, as a view: uint16 [size, size]."""
        return row[self.offset : self.stop].reshape(self.size, self.size)


def _lay_out() -> tuple[Band, ...]:
    bands, offset = [], 0
    for name, size in _SIZES.items():
        bands.append(Band(name, size, offset, *STATISTICS[name]))
        offset = bands[-1].stop
    return tuple(bands)


ROW = _lay_out()
"""The bands in the order in which they lie in a row."""

VALUES_PER_PATCH = ROW[-1].stop
BYTES_PER_PATCH = VALUES_PER_PATCH * 2
ROW_DTYPE = np.dtype("<u2")

_BY_NAME = {band.name: band for band in ROW}

BAND_SETS = {
    "all": tuple(_BY_NAME[name] for name in STATISTICS),
    "10m+20m": tuple(_BY_NAME[name] for name in STATISTICS if _SIZES[name] > 20),
    "rgb": tuple(_BY_NAME[name] for name in ("B04", "B03", "B02")),
}
"""In the order in which a model sees them."""
