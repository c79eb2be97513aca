"""EuroSAT in miniature, as it lies on a disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from trainers.datasets import eurosat

IMAGES_PER_CLASS = 6


def write_jpegs(folder: Path, images_per_class: int = IMAGES_PER_CLASS) -> None:
    for name in eurosat.CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(1, images_per_class + 1):
            Image.new("RGB", (64, 64), (number, 100, 200)).save(folder / name / f"{name}_{number}.jpg")


def write_tiffs(folder: Path) -> None:
    profile = {"driver": "GTiff", "count": 13, "width": 64, "height": 64, "dtype": "uint16"}
    for name in eurosat.CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(1, IMAGES_PER_CLASS + 1):
            with rasterio.open(folder / name / f"{name}_{number}.tif", "w", **profile) as tiff:
                tiff.write(np.full((13, 64, 64), 1000 * number, np.uint16))
