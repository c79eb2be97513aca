"""A scene becomes a map: windows, cells, nodata and georeference, with a model whose answers are easily computed."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine

from storage.protocol.exports import EXPORT_FORMAT, ExportRecord
from trainers.predict import PredictionError
from trainers.predict.grid import CellRows, Tiling
from trainers.predict.scene import inspect_scene, write_map

TILE = 8
RECORD = ExportRecord(
    format_version=EXPORT_FORMAT,
    study_name="s",
    study_uuid="",
    objective="f1_micro",
    trials=(),
    task="multi_label",
    classes=("grass", "water"),
    thresholds=(0.5, 0.5),
    input_shape=(TILE, TILE, 3),
    input_dtype="uint16",
    bands=("red", "green", "blue"),
    resizes_images=False,
)
PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def classify(samples: NDArray[np.integer]) -> NDArray[np.float32]:
    """The mean of the first band and that of the last one, as shares of 1000: float32 [n, 2]."""
    return (samples[..., [0, -1]].mean(axis=(1, 2)) / 1000).astype(np.float32)


def draw_pixels(height: int, width: int, bands: int = 3) -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(1, 1000, (height, width, bands), np.uint16)


def write_scene(path: Path, pixels: NDArray[np.integer], names: tuple[str, ...] = (), **changes) -> Path:
    height, width, bands = pixels.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": bands,
        "dtype": pixels.dtype,
        "crs": "EPSG:32632",
        "transform": PLACE,
    }
    with rasterio.open(path, "w", **{**profile, **changes}) as raster:
        raster.write(np.moveaxis(pixels, -1, 0))
        if names:
            raster.descriptions = names
    return path


def map_of(scene: Path, stride: int | None = None) -> NDArray[np.float32]:
    """float32 [rows, columns, classes]"""
    out = scene.with_name("map.tif")
    write_map(out, inspect_scene(scene, RECORD, stride), RECORD, classify, lambda done: None)
    with rasterio.open(out) as raster:
        return np.moveaxis(raster.read(), 0, -1)


def expected_map(pixels: NDArray[np.integer], stride: int) -> NDArray[np.float64]:
    """Each pixel's mean over the windows that hold it, then each cell's over its pixels, weighted by their windows."""
    height, width, _ = pixels.shape
    sums, windows = np.zeros((height, width, 2)), np.zeros((height, width, 1))
    for top in sorted({*range(0, height - TILE, stride), height - TILE}):
        for left in sorted({*range(0, width - TILE, stride), width - TILE}):
            place = np.s_[top : top + TILE, left : left + TILE]
            sums[place] += classify(pixels[place][None])[0]
            windows[place] += 1
    rows, columns = range(0, height, stride), range(0, width, stride)
    cells = [[np.s_[row : row + stride, column : column + stride] for column in columns] for row in rows]
    return np.array([[sums[c].sum((0, 1)) / windows[c].sum((0, 1)) for c in of_row] for of_row in cells])


def test_windows_side_by_side_give_the_models_own_answers(tmp_path):
    pixels = draw_pixels(3 * TILE, 2 * TILE)

    found = map_of(write_scene(tmp_path / "scene.tif", pixels), stride=TILE)

    windows = pixels.reshape(3, TILE, 2, TILE, 3).swapaxes(1, 2).reshape(6, TILE, TILE, 3)
    np.testing.assert_allclose(found.reshape(6, 2), classify(windows), atol=1e-6)


@pytest.mark.parametrize("size", [(32, 24), (29, 43), (8, 8), (9, 70)])
@pytest.mark.parametrize("stride", [1, 3, 4, 5, 8])
def test_a_cell_has_the_mean_of_the_windows_over_it(tmp_path, size, stride):
    pixels = draw_pixels(*size)

    found = map_of(write_scene(tmp_path / "scene.tif", pixels), stride)

    np.testing.assert_allclose(found, expected_map(pixels, stride), atol=1e-5)


def test_the_stride_is_half_the_models_input_unless_it_is_said(tmp_path):
    pixels = draw_pixels(32, 24)

    assert map_of(write_scene(tmp_path / "scene.tif", pixels)).shape == (8, 6, 2)


def test_the_map_lies_where_the_scene_lies(tmp_path):
    scene = write_scene(tmp_path / "scene.tif", draw_pixels(30, 24))
    map_of(scene, stride=4)

    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.crs == rasterio.crs.CRS.from_epsg(32632)
        assert raster.transform == Affine(40, 0, 500_000, 0, -40, 5_000_000)
        # The last row of cells reaches 2 pixels beyond the scene.
        assert raster.shape == (8, 6)
        assert raster.descriptions == ("grass", "water")
        assert raster.dtypes == ("float32", "float32")
        assert np.isnan(raster.nodata)


def test_a_cell_with_nodata_is_nodata_and_no_other_has_seen_it(tmp_path):
    pixels = draw_pixels(32, 32)
    pixels[13, 18] = 0
    changed = pixels.copy()
    changed[13, 19] = 60_000  # in the same cell

    found = map_of(write_scene(tmp_path / "scene.tif", pixels, nodata=0), stride=4)
    found_again = map_of(write_scene(tmp_path / "again.tif", changed, nodata=0), stride=4)

    assert np.argwhere(np.isnan(found[..., 0])).tolist() == [[3, 4]]
    np.testing.assert_array_equal(found, found_again)


def test_where_no_window_is_whole_all_is_nodata(tmp_path):
    pixels = draw_pixels(32, 32)
    pixels[:, ::6] = 0

    assert np.isnan(map_of(write_scene(tmp_path / "scene.tif", pixels, nodata=0))).all()


def test_bands_are_found_by_name_where_the_scene_names_them(tmp_path):
    pixels = draw_pixels(16, 16)

    plain = map_of(write_scene(tmp_path / "plain.tif", pixels), stride=8)
    named = map_of(write_scene(tmp_path / "named.tif", pixels[..., [2, 0, 1]], ("blue", "red", "green")), stride=8)

    np.testing.assert_array_equal(named, plain)


def held_bytes(tmp_path: Path, height: int, width: int) -> int:
    """The most memory that Python held at once while a map was made."""
    scene = inspect_scene(write_scene(tmp_path / f"{height}x{width}.tif", draw_pixels(height, width)), RECORD, None)
    tracemalloc.start()
    try:
        write_map(tmp_path / "map.tif", scene, RECORD, classify, lambda done: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_scenes_height(tmp_path):
    low, high = held_bytes(tmp_path, 64, 160), held_bytes(tmp_path, 4096, 160)

    # Some garbage waits to be collected, whatever the height.
    assert high - low < 0.1 * (4096 * 160 * 3 * 2)


def test_no_more_rows_of_cells_are_held_than_a_row_of_windows_touches():
    tiling = Tiling(height=10_000, width=100, tile_height=TILE, tile_width=TILE, stride=3)
    cells, held = CellRows(tiling, class_count=2), []
    tops = tiling.tops()

    for top, next_top in zip(tops, [*tops[1:], tiling.cell_rows * tiling.stride], strict=True):
        for left in tiling.lefts():
            cells.add(top, left, np.array([0.25, 0.75], np.float32))
        held.append(len(cells.take_above(next_top)))

    assert sum(held) == tiling.cell_rows
    assert max(held) <= 4


BAD_SCENES = {
    "no CRS": ({"crs": None}, (16, 16, 3), "has no coordinate reference system"),
    "no geotransform": ({"transform": Affine.identity()}, (16, 16, 3), "has no geotransform"),
    "a band too many": ({}, (16, 16, 4), r"has 4 bands, and the model takes 3 \(red, green, blue\)"),
    "too low": ({}, (7, 16, 3), "7 x 16 with 3 bands of uint16, smaller than one tile: the model takes 8 x 8"),
    "too narrow": ({}, (16, 7, 3), "smaller than one tile"),
}


@pytest.mark.parametrize("what", BAD_SCENES)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_that_does_not_fit_is_refused(what, tmp_path):
    changes, shape, words = BAD_SCENES[what]
    scene = write_scene(tmp_path / "scene.tif", draw_pixels(*shape), **changes)

    with pytest.raises(PredictionError, match=words):
        inspect_scene(scene, RECORD, None)


def test_values_of_another_type_are_refused(tmp_path):
    scene = write_scene(tmp_path / "scene.tif", draw_pixels(16, 16).astype(np.uint8))

    with pytest.raises(PredictionError, match="holds uint8 values, and the model takes uint16"):
        inspect_scene(scene, RECORD, None)


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_that_leaves_gaps_is_refused(tmp_path, stride):
    scene = write_scene(tmp_path / "scene.tif", draw_pixels(16, 16))

    with pytest.raises(PredictionError, match="from 1 to 8 pixels"):
        inspect_scene(scene, RECORD, stride)


def test_what_is_not_a_raster_is_refused(tmp_path):
    (tmp_path / "scene.tif").write_text("no pixels")

    with pytest.raises(PredictionError, match="cannot be read as a raster"):
        inspect_scene(tmp_path / "scene.tif", RECORD, None)


def test_a_model_of_packed_bands_is_not_for_scenes(tmp_path):
    packed = dataclasses.replace(RECORD, input_shape=(100,))

    with pytest.raises(PredictionError, match="cannot be applied to a scene"):
        inspect_scene(tmp_path / "scene.tif", packed, None)


def test_a_scene_that_breaks_off_is_one_error(tmp_path):
    path = write_scene(tmp_path / "scene.tif", draw_pixels(256, 256))
    scene = inspect_scene(path, RECORD, None)
    path.write_bytes(path.read_bytes()[:100_000])

    with pytest.raises(PredictionError, match="cannot be made"):
        write_map(tmp_path / "map.tif", scene, RECORD, classify, lambda done: None)
