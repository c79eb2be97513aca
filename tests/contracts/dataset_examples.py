"""The smallest examples of each data set: what tests/contracts/test_datasets.py builds it with.

A new data set trainers/datasets/NAME.py adds a function here that puts its files, if it reads any, into a folder and
gives the options of `build`, and an entry NAME in EXAMPLES; one function for each kind of file that it reads, and one
with whatever it changes at random. Train and val need three samples or more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio import Affine

from trainers.bigearthnet import Version
from trainers.bigearthnet.prepare import Preparation, prepare
from trainers.bigearthnet.synthesize import synthesize
from trainers.datasets.eurosat import CLASSES


def synthetic_bigearthnet(folder: Path) -> dict[str, Any]:
    return {"train": 12, "val": 6, "test": 4, "size": 8}


def image_folder(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    lines = ["image,split,grass,water"]
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        for number in range(count):
            name = f"{split}{number:02d}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name)
            lines.append(f"{name},{split},{number % 2},{number // 2 % 2}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return {"path": str(folder)}


def bigearthnet(folder: Path) -> dict[str, Any]:
    synthesize(Version.V1, 40, folder / "archive")
    prepare(Preparation(folder / "archive", Version.V1, folder / "archive/splits", folder / "shards"))
    return {"path": str(folder / "shards")}


def bigearthnet_augmented(folder: Path) -> dict[str, Any]:
    return {**bigearthnet(folder), "bands": "rgb", "augment": True}


def eurosat_rgb(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir()
        for number in range(1, 4):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}_{number}.jpg", quality=95)
    return {"path": str(folder)}


def eurosat_all_bands(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    # Any place on Earth: rasterio warns of a TIFF that has none.
    place = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    profile = {"driver": "GTiff", "count": 13, "width": 8, "height": 8, "dtype": "uint16", "transform": place}
    for name in CLASSES:
        (folder / name).mkdir()
        for number in range(1, 4):
            with rasterio.open(folder / name / f"{name}_{number}.tif", "w", **profile) as tiff:
                tiff.write(rng.integers(0, 10_000, (13, 8, 8), np.uint16))
    return {"path": str(folder)}


EXAMPLES: dict[str, list[Callable[[Path], dict[str, Any]]]] = {
    "bigearthnet": [bigearthnet, bigearthnet_augmented],
    "eurosat": [eurosat_rgb, eurosat_all_bands],
    "image_folder": [image_folder],
    "synthetic_bigearthnet": [synthetic_bigearthnet],
}
