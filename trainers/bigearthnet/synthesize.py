"""Synthesize: archives in the true layout, for practice. Their pixels are synthetic_bigearthnet's, their maps are not.

v1: OUT/BigEarthNet-v1.0 and OUT/splits. v2: OUT/BigEarthNet-S2 and OUT/metadata.parquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS

from trainers.bigearthnet import PrepareError, Version
from trainers.bigearthnet.archive import ROOTS
from trainers.bigearthnet.bands import BAND_SETS, PATCH_SIZE, ROW, Band
from trainers.bigearthnet.labels import CLASS_OF_NAME, CLASSES, DROPPED_NAMES
from trainers.bigearthnet.split_lists import V1_LISTS, V2_DROPPED_TABLE, V2_TABLE, Status
from trainers.datasets import Split, read_samples, synthetic_bigearthnet

MIN_PATCHES = 20
"""So that every split and every reason to drop a patch has one at least."""

V1_LISTS_FOLDER = "splits"
_LISTS = {Version.V1: (V1_LISTS_FOLDER,), Version.V2: (V2_TABLE, V2_DROPPED_TABLE)}

# Shares of the official v1 archive.
_SHARES = {Status.SNOW: 0.105, Status.CLOUD_OR_SHADOW: 0.016, Status.NO_CLASS: 0.0001}
_SPLIT_SHARES = {Status.TRAIN: 0.52, Status.VAL: 0.24, Status.TEST: 0.24}

# Made at once: 64 is what synthetic_bigearthnet makes in one go, 22 MB.
_BLOCK = 64

# Grid squares of Sentinel-2 in Finland, Portugal and Austria, with their zone and north-western corner in metres.
_TILES = (("34VER", 34, 499980, 7100040), ("29SND", 29, 499980, 4300020), ("33UUP", 33, 399960, 5400000))
_COLUMNS = 90
"""Patches side by side in a tile."""


@dataclass(frozen=True)
class _Patch:
    number: int
    status: Status

    @property
    def place(self) -> tuple[int, int]:
        """Column and row in its tile."""
        return divmod(self.number // len(_TILES) * 37 % _COLUMNS**2, _COLUMNS)

    @property
    def tile(self) -> tuple[str, int, int, int]:
        return _TILES[self.number % len(_TILES)]

    @property
    def acquired(self) -> tuple[str, str]:
        """Date and time; every third one is early enough for v1 to drop a zero."""
        scene = self.number // len(_TILES) // _COLUMNS**2
        return f"201{7 + scene % 2}{6 + scene % 3:02d}13", ("101031", "112501", "093029")[self.number % 3]

    def name(self, version: Version) -> str:
        date, time = self.acquired
        column, row = self.place
        if version is Version.V1:
            return f"S2A_MSIL2A_{date}T{int(time)}_{column}_{row}"
        return f"S2A_MSIL2A_{date}T{time}_N9999_R022_T{self.tile[0]}_{column:02d}_{row:02d}"

    @property
    def corner(self) -> tuple[int, int]:
        column, row = self.place
        _, _, west, north = self.tile
        return west + column * 10 * PATCH_SIZE, north - row * 10 * PATCH_SIZE


def synthesize(version: Version, patches: int, out: Path, seed: int = 0) -> None:
    """Write an archive of so many patches, those that the lists drop included, and its lists.

    Raises:
        PrepareError: Too few patches, or OUT holds such an archive or its lists already, or cannot be written to.
    """
    if patches < MIN_PATCHES:
        raise PrepareError(f"--patches {patches} is too few: it takes {MIN_PATCHES} to have one of every kind.")
    try:
        for name in (ROOTS[version], *_LISTS[version]):
            if (out / name).exists():
                raise PrepareError(f"{out / name} is there already; choose another --out or delete it.")
        _write_archive(version, patches, out, seed)
    except OSError as error:
        raise PrepareError(
            f"cannot write to {out}: {error}. --out must be a folder that you may write to, with {patches / 5:,.0f} MB "
            "of room; delete what is half done there before you give the same command again."
        ) from error


def _write_archive(version: Version, patches: int, out: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    statuses = _draw_statuses(rng, patches, version)
    rows: list[dict[str, Any]] = []
    for patch, pixels, classes in _draw_patches(statuses, seed):
        name = patch.name(version)
        folder = out / ROOTS[version] / (name if version is Version.V1 else f"{name.rsplit('_', 2)[0]}/{name}")
        folder.mkdir(parents=True)
        for band in ROW:
            _write_tiff(folder / f"{name}_{band.name}.tif", band, pixels, patch, version)
        if version is Version.V1:
            label_path = folder / f"{name}_labels_metadata.json"
            label_path.write_text(json.dumps(_label_metadata(patch, classes, rng)))
        rows.append({"name": name, "status": patch.status, "classes": classes, "v1_name": patch.name(Version.V1)})
    if version is Version.V1:
        _write_v1_lists(out / V1_LISTS_FOLDER, rows)
    else:
        _write_v2_tables(out, rows)


def _draw_statuses(rng: np.random.Generator, patches: int, version: Version) -> list[Status]:
    counts = {status: max(1, round(share * patches)) for status, share in _SHARES.items()}
    if version is Version.V2:
        # v2 has left these out of the archive itself.
        del counts[Status.NO_CLASS]
    rest = patches - sum(counts.values())
    counts |= {status: int(share * rest) for status, share in _SPLIT_SHARES.items()}
    counts[Status.TRAIN] += patches - sum(counts.values())
    statuses = [status for status, count in sorted(counts.items()) for _ in range(count)]
    return [statuses[index] for index in rng.permutation(patches)]


def _draw_patches(statuses: list[Status], seed: int) -> Iterator[tuple[_Patch, NDArray[np.uint16], tuple[str, ...]]]:
    """Each patch with its pixels uint16 [120, 120, 12], in the satellite's order of bands, and its classes."""
    for start in range(0, len(statuses), _BLOCK):
        block = statuses[start : start + _BLOCK]
        drawn = synthetic_bigearthnet.build("", train=len(block), size=PATCH_SIZE, seed=seed + start)
        samples, labels = read_samples(drawn.open(Split.TRAIN), np.arange(len(block)))
        for offset, status in enumerate(block):
            classes = tuple(CLASSES[index] for index in np.flatnonzero(labels[offset]))
            yield _Patch(start + offset, status), samples[offset], classes if status is not Status.NO_CLASS else ()


def _write_tiff(path: Path, band: Band, pixels: NDArray[np.uint16], patch: _Patch, version: Version) -> None:
    step = PATCH_SIZE // band.size
    fine = pixels[..., BAND_SETS["all"].index(band)].astype(np.float32)
    coarse = np.rint(fine.reshape(band.size, step, band.size, step).mean(axis=(1, 3))).astype(np.uint16)
    west, north = patch.corner
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": 1,
        "width": band.size,
        "height": band.size,
        "crs": CRS.from_epsg(32600 + patch.tile[1]),
        "transform": Affine(band.resolution_m, 0, west, 0, -band.resolution_m, north),
        "nodata": 0 if version is Version.V2 else None,
    }
    with rasterio.open(path, "w", **profile) as tiff:
        tiff.write(coarse, 1)


def _label_metadata(patch: _Patch, classes: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    """What a v1 patch's JSON says: for each class one of its names, and in some patches a name that is dropped."""
    names_of = {of: [name for name in CLASS_OF_NAME if CLASS_OF_NAME[name] == of] for of in classes}
    labels = [str(rng.choice(names_of[class_name])) for class_name in classes]
    if not labels or rng.random() < 0.1:
        labels.append(str(rng.choice(DROPPED_NAMES)))
    west, north = patch.corner
    date, time = patch.acquired
    return {
        "labels": labels,
        "coordinates": {"ulx": west, "uly": north, "lrx": west + 10 * PATCH_SIZE, "lry": north - 10 * PATCH_SIZE},
        "projection": CRS.from_epsg(32600 + patch.tile[1]).to_wkt(),
        "tile_source": f"S2A_MSIL1C_{date}T{time}_N0205_R022_T{patch.tile[0]}_{date}T{time}.SAFE",
        "acquisition_date": f"{date[:4]}-{date[4:6]}-{date[6:]} {time[:2]}:{time[2:4]}:{time[4:]}",
    }


def _write_v1_lists(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for stem, status in V1_LISTS.items():
        names = [row["name"] for row in rows if row["status"] is status]
        (folder / f"{stem}.csv").write_text("".join(f"{name}\n" for name in names))


def _write_v2_tables(out: Path, rows: list[dict[str, Any]]) -> None:
    splits = {Status.TRAIN: "train", Status.VAL: "validation", Status.TEST: "test"}
    for name, wants_split in ((V2_TABLE, True), (V2_DROPPED_TABLE, False)):
        table = [row for row in rows if row["status"].is_split is wants_split]
        statuses = [row["status"] for row in table]
        columns = {
            "patch_id": pa.array([row["name"] for row in table], pa.string()),
            "labels": pa.array([sorted(row["classes"]) for row in table], pa.list_(pa.string())),
            "split": pa.array([splits.get(s, "train") for s in statuses], pa.string()),
            "country": pa.array(["Finland"] * len(table), pa.string()),
            "s1_name": pa.array([f"S1A_{row['v1_name']}" for row in table], pa.string()),
            "s2v1_name": pa.array([row["v1_name"] for row in table], pa.string()),
            "contains_seasonal_snow": pa.array([s is Status.SNOW for s in statuses], pa.bool_()),
            "contains_cloud_or_shadow": pa.array([s is Status.CLOUD_OR_SHADOW for s in statuses], pa.bool_()),
        }
        pq.write_table(pa.table(columns), out / name)
