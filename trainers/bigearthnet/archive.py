"""The archive as it is downloaded: one folder per patch, one GeoTIFF per band.

v1   BigEarthNet-v1.0/PATCH/PATCH_B02.tif ...        with PATCH_labels_metadata.json
v2   BigEarthNet-S2/TILE/PATCH/PATCH_B02.tif ...     labels are in metadata.parquet
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from trainers.bigearthnet import PrepareError, Version
from trainers.bigearthnet.bands import ROW, Band
from trainers.bigearthnet.labels import UnknownLabelError, encode_43

ROOTS = {Version.V1: "BigEarthNet-v1.0", Version.V2: "BigEarthNet-S2"}

# v1 drops the zero in front of hours before ten (T94033), but not everywhere.
_V1_NAME = re.compile(r"(S2[ABC]_MSIL2A_\d{8}T)0*(\d{1,6})_0*(\d+)_0*(\d+)")
_V2_NAME = re.compile(r"(S2[ABC]_MSIL2A_\d{8}T\d{6}_N\d{4}_R\d{3}_T\w{5})_\d+_\d+")


class PatchError(ValueError):
    """A patch cannot be used. The message is the reason, without the patch's name."""


def canonical_name(version: Version, name: str) -> str | None:
    """The one spelling of a patch's name, or None if it is not one."""
    if version is Version.V2:
        return name if _V2_NAME.fullmatch(name) else None
    match = _V1_NAME.fullmatch(name)
    return match and f"{match[1]}{match[2]}_{match[3]}_{match[4]}"


@dataclass(frozen=True)
class Archive:
    """An archive on disk."""

    version: Version
    root: Path

    @classmethod
    def find(cls, version: Version, path: Path) -> Archive:
        """The archive that lies in `path`, or is it.

        Raises:
            PrepareError: There is none.
        """
        for root in (path / ROOTS[version], path):
            if root.is_dir() and root.name == ROOTS[version]:
                return cls(version, root)
        raise PrepareError(
            f"{path} holds no folder {ROOTS[version]}; name the folder into which the {version} archive was unpacked."
        )

    def folder(self, name: str) -> Path:
        """Where a patch of this name belongs."""
        return self.root / name if self.version is Version.V1 else self.root / name.rsplit("_", 2)[0] / name

    def folders(self) -> Iterator[Path]:
        """Every folder that should be a patch, in no order."""
        for entry in _subfolders(self.root):
            if self.version is Version.V1:
                yield entry
            else:
                yield from _subfolders(entry)

    def read_classes(self, name: str) -> int:
        """The 19 classes of a v1 patch.

        Raises:
            PatchError: The label file is missing or broken, or holds an unknown label.
        """
        path = self.folder(name) / f"{name}_labels_metadata.json"
        try:
            return encode_43(json.loads(path.read_bytes())["labels"])
        except FileNotFoundError as error:
            raise PatchError(f"{path.name} is missing") from error
        except UnknownLabelError as error:
            raise PatchError(f"{path.name}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PatchError(f"{path.name} is broken: {error!r}") from error

    def read_pixels(self, name: str, row: NDArray[np.uint16]) -> None:
        """Fill a row with a patch's bands.

        Raises:
            PatchError: A band is missing, broken, or of the wrong size or type.
        """
        prefix = os.fspath(self.folder(name) / name)
        for band in ROW:
            path = f"{prefix}_{band.name}.tif"
            try:
                with rasterio.open(path, sharing=False) as tiff:
                    _check(tiff, band)
                    tiff.read(1, out=band.of(row))
            except (OSError, RasterioError) as error:
                if not Path(path).exists():
                    raise PatchError(f"{band.name} is missing") from error
                raise PatchError(f"{band.name} cannot be read: {error}") from error


@contextmanager
def reading() -> Iterator[None]:
    """Read many small files: no look around for sidecar files, and none of the warnings that nobody can act on."""
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _check(tiff: rasterio.DatasetReader, band: Band) -> None:
    found = (tiff.count, tiff.height, tiff.width, tiff.dtypes[0])
    if found != (1, band.size, band.size, "uint16"):
        raise PatchError(
            f"{band.name} is {found[0]} x {found[1]} x {found[2]} {found[3]}, not 1 x {band.size} x {band.size} uint16"
        )


def _subfolders(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield folder / entry.name
