"""A georeferenced scene, window by window, to a map of class probabilities on a coarser grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from storage.protocol.exports import ExportRecord
from trainers.datasets.image_folder import describe_image, without_georeference_warning
from trainers.predict import PredictionError
from trainers.predict.exported import BATCH_SIZE, Classify
from trainers.predict.grid import CellRows, Tiling

_IMAGE_RANK = 3
# GDAL's own is a share of the machine's memory.
_BLOCK_CACHE_BYTES = 2**28


@dataclass(frozen=True)
class Scene:
    """A raster that the model can be applied to."""

    path: Path
    tiling: Tiling
    bands: tuple[int, ...]
    """Numbers in the file, from 1, in the model's order."""
    crs: CRS
    transform: Affine

    @property
    def cell_transform(self) -> Affine:
        """From (column, row) of a cell to the coordinates of its upper left corner."""
        return self.transform @ Affine.scale(self.tiling.stride)


def inspect_scene(path: Path, record: ExportRecord, stride: int | None) -> Scene:
    """Check a raster without reading pixels.

    Args:
        stride: Of the windows, in pixels; None: half the model's input.

    Raises:
        PredictionError: It is not a raster of this model's bands and type with a place on Earth, or too small; or the
            stride leaves gaps.
    """
    if len(record.input_shape) != _IMAGE_RANK:
        raise PredictionError(
            f"the model takes samples of {record.input_shape[0]} values, bands of several resolutions packed, so it "
            "cannot be applied to a scene; export a model of a data set with bands of one resolution."
        )
    tile_height, tile_width, _ = record.input_shape
    stride = max(1, min(tile_height, tile_width) // 2) if stride is None else stride
    if not 1 <= stride <= min(tile_height, tile_width):
        raise PredictionError(
            f"--stride {stride}: it must be from 1 to {min(tile_height, tile_width)} pixels, the model's input; a "
            "larger one leaves gaps."
        )
    try:
        with without_georeference_warning(), rasterio.open(path) as raster:
            _require_fit(raster, path, record)
            tiling = Tiling(raster.height, raster.width, tile_height, tile_width, stride)
            return Scene(path, tiling, _band_numbers(raster, record), raster.crs, raster.transform)
    except RasterioError as error:
        raise PredictionError(f"{path} cannot be read as a raster: {error}") from error


def _require_fit(raster: DatasetReader, path: Path, record: ExportRecord) -> None:
    height, width, bands = record.input_shape
    if raster.count != bands:
        names = f" ({', '.join(record.bands)})" if record.bands else ""
        raise PredictionError(f"{path} has {raster.count} bands, and the model takes {bands}{names}.")
    if wrong := [dtype for dtype in raster.dtypes if dtype != record.input_dtype]:
        raise PredictionError(
            f"{path} holds {wrong[0]} values, and the model takes {record.input_dtype}, scaled as in its training data."
        )
    if raster.height < height or raster.width < width:
        raise PredictionError(
            f"{path} is {describe_image((raster.height, raster.width, bands), np.dtype(record.input_dtype))}, smaller "
            f"than one tile: the model takes {height} x {width} pixels."
        )
    if raster.crs is None or raster.transform.is_identity:
        raise PredictionError(
            f"{path} has no {'coordinate reference system' if raster.crs is None else 'geotransform'}, so its "
            "probabilities would have no place; add it (gdal_edit.py -a_srs, -a_ullr), or classify images with --out "
            "NAME.csv."
        )


def _band_numbers(raster: DatasetReader, record: ExportRecord) -> tuple[int, ...]:
    """By name, where the raster's bands bear the model's names; else in the file's order."""
    if record.bands is not None and sorted(map(str, raster.descriptions)) == sorted(record.bands):
        return tuple(raster.descriptions.index(name) + 1 for name in record.bands)
    return tuple(raster.indexes)


def write_map(
    path: Path, scene: Scene, record: ExportRecord, classify: Classify, report: Callable[[int], None]
) -> None:
    """Write a float32 GeoTIFF with a band of probabilities per class, NaN for nodata, and a pixel per cell.

    Windows in which a pixel is nodata are left out, because the model has learned from whole ones. A cell is nodata if
    one of its pixels is, or if no window is left that overlaps it.

    Args:
        report: Called with the number of rows of windows that are done since the last call.

    Raises:
        PredictionError: The scene cannot be read, or the map not written.
    """
    profile = {
        "driver": "GTiff",
        "height": scene.tiling.cell_rows,
        "width": scene.tiling.cell_columns,
        "count": len(record.classes),
        "dtype": "float32",
        "nodata": np.nan,
        "crs": scene.crs,
        "transform": scene.cell_transform,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=_BLOCK_CACHE_BYTES),
            rasterio.open(scene.path) as raster,
            rasterio.open(path, "w", **profile) as out,
        ):
            out.descriptions = record.classes
            _write_rows(raster, out, scene, classify, report)
    except RasterioError as error:
        raise PredictionError(f"the map of {scene.path} cannot be made: {error}") from error


def _write_rows(
    raster: DatasetReader, out: DatasetWriter, scene: Scene, classify: Classify, report: Callable[[int], None]
) -> None:
    tiling = scene.tiling
    cells, written = CellRows(tiling, out.count), 0
    tops = tiling.tops()
    # Behind the last row of windows, whole cells are asked for: one may reach beyond the scene.
    for top, next_top in zip(tops, [*tops[1:], tiling.cell_rows * tiling.stride], strict=True):
        for lefts, pixels, is_nodata in _read_windows(raster, scene, top):
            _classify_windows(cells, top, lefts, pixels, is_nodata, classify)
        rows = cells.take_above(next_top)
        if len(rows):
            out.write(np.moveaxis(rows, -1, 0), window=Window(0, written, tiling.cell_columns, len(rows)))
        written += len(rows)
        report(1)


def _read_windows(
    raster: DatasetReader, scene: Scene, top: int
) -> Iterator[tuple[list[int], NDArray[np.integer], NDArray[np.bool_]]]:
    """Some windows of a row at a time: their first columns, pixels [n, tile_height, tile_width, bands] and which of
    these are nodata, [n, tile_height, tile_width]."""
    tiling = scene.tiling
    all_lefts = tiling.lefts()
    for i in range(0, len(all_lefts), BATCH_SIZE):
        lefts = all_lefts[i : i + BATCH_SIZE]
        strip = Window(lefts[0], top, lefts[-1] + tiling.tile_width - lefts[0], tiling.tile_height)
        pixels = np.moveaxis(raster.read(scene.bands, window=strip), 0, -1)
        is_nodata = raster.dataset_mask(window=strip) == 0
        places = [slice(left - lefts[0], left - lefts[0] + tiling.tile_width) for left in lefts]
        yield lefts, np.stack([pixels[:, p] for p in places]), np.stack([is_nodata[:, p] for p in places])


def _classify_windows(
    cells: CellRows,
    top: int,
    lefts: list[int],
    pixels: NDArray[np.integer],
    is_nodata: NDArray[np.bool_],
    classify: Classify,
) -> None:
    is_whole = ~is_nodata.any(axis=(1, 2))
    for i in np.flatnonzero(~is_whole):
        cells.mark(top, lefts[i], is_nodata[i])
    if is_whole.any():
        whole = np.flatnonzero(is_whole)
        for i, probabilities in zip(whole, classify(pixels[whole]), strict=True):
            cells.add(top, lefts[i], probabilities)
