"""EuroSAT as it is downloaded: a folder per class, with JPEG (RGB) or with TIFF of 13 bands.

    PATH/AnnualCrop/AnnualCrop_1.jpg       or       PATH/AnnualCrop/AnnualCrop_1.tif

One class per image, as one-hot labels. EuroSAT has no official split: here 60 % of each class train, 20 % are val and
20 % test, drawn by the image's name, so that a copy without some images keeps the others where they are. The bands of
the TIFFs are B01 to B08, B09 to B12 and then B8A; the data set takes them in that order.

Source: Helber et al. 2019, arXiv:1709.00029.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from trainers.datasets import DatasetError, Split
from trainers.datasets.image_folder import ImageFolder, LabelTable, open_images

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)

_SUFFIXES = (".jpg", ".tif")


def build(cache_dir: str | Path, *, path: str) -> ImageFolder:
    """The images of one edition, RGB or all bands; which one is seen from the files.

    Args:
        cache_dir: Where the decoded images are kept.
        path: The folder that holds the ten folders of the classes.

    Raises:
        DatasetError: The folder is not EuroSAT's, or holds both editions.
    """
    folder = Path(path).expanduser()
    missing = [name for name in CLASSES if not (folder / name).is_dir()]
    if missing:
        raise DatasetError(
            f"{folder} lacks the folder{'s' * (len(missing) > 1)} {', '.join(missing)}; path must be the folder that "
            "holds the ten folders of the classes."
        )
    images = [
        f"{name}/{file.name}"
        for name in CLASSES
        for file in sorted((folder / name).iterdir())
        if file.suffix in _SUFFIXES
    ]
    if len(suffixes := {Path(image).suffix for image in images}) != 1:
        found = "both JPEG and TIFF" if suffixes else "neither JPEG nor TIFF"
        raise DatasetError(f"{folder} holds {found}; it must hold one edition of EuroSAT.")
    return open_images(cache_dir, folder, _table(folder, images), size=None)


def _table(folder: Path, images: list[str]) -> LabelTable:
    split_of = {image: _split(image) for image in images}
    images = sorted(images, key=lambda image: list(Split).index(split_of[image]))
    sizes = {split: sum(of is split for of in split_of.values()) for split in Split}
    for split in (Split.TRAIN, Split.VAL):
        if not sizes[split]:
            raise DatasetError(f"{folder} holds too few images ({len(images)}): none falls to the split {split}.")
    labels = np.zeros((len(images), len(CLASSES)), np.uint8)
    labels[np.arange(len(images)), [CLASSES.index(image.partition("/")[0]) for image in images]] = 1
    return LabelTable(CLASSES, tuple(images), labels, sizes)


def _split(image: str) -> Split:
    """By the name without its ending, so that both editions are cut alike."""
    percent = int.from_bytes(hashlib.sha256(Path(image).stem.encode()).digest()[:4]) % 100
    return Split.TRAIN if percent < 60 else Split.VAL if percent < 80 else Split.TEST
