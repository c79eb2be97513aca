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

from trainers.datasets import DatasetError, Split
from trainers.datasets.image_folder import ImageFolder, LabelTable, TableRow, open_images

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
    table = LabelTable.of([_row(image) for image in images], CLASSES, f"{folder}, with {len(images)} images,")
    return open_images(cache_dir, folder, table, size=None)


def _row(image: str) -> TableRow:
    class_name = image.partition("/")[0]
    return TableRow(image, _split(image), tuple(int(name == class_name) for name in CLASSES))


def _split(image: str) -> Split:
    """By the name without its ending, so that both editions are cut alike."""
    percent = int.from_bytes(hashlib.sha256(Path(image).stem.encode()).digest()[:4]) % 100
    return Split.TRAIN if percent < 60 else Split.VAL if percent < 80 else Split.TEST
