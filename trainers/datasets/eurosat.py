"""EuroSAT as it is downloaded: a folder per class, with JPEG (RGB) or with TIFF of 13 bands (docs/datasets/eurosat.md).

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
from trainers.datasets.image_folder import SUFFIXES, TIFF_SUFFIXES, ImageFolder, LabelTable, TableRow, open_images

TASK = "single_label"

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


def build(cache_dir: str | Path, *, path: str, augment: bool = False, shift: int = 0) -> ImageFolder:
    """The images of one edition, RGB or all bands; which one is seen from the files.

    Args:
        cache_dir: Where the decoded images are kept.
        path: The folder that holds the ten folders of the classes.
        augment: Whether training images are flipped and turned by quarters at random.
        shift: Largest shift of a training image at random, in pixels, along each axis.

    Raises:
        ComponentError: shift is out of its range.
        DatasetError: The folder is not EuroSAT's, a class is without images, or both editions are there.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; path must be that of EuroSAT, see docs/datasets/eurosat.md.")
    missing = [name for name in CLASSES if not (folder / name).is_dir()]
    if missing:
        raise DatasetError(
            f"{folder} lacks the folder{'s' * (len(missing) > 1)} {', '.join(missing)}; path must be the folder that "
            "holds the ten folders of the classes."
        )
    images_of = {name: _images(folder / name) for name in CLASSES}
    if empty := [name for name, images in images_of.items() if not images]:
        raise DatasetError(
            f"{folder} holds no image of {', '.join(empty)}; each class needs some whose names end in one of "
            f"{', '.join(SUFFIXES)}."
        )
    images = [f"{name}/{image}" for name in CLASSES for image in images_of[name]]
    if len({Path(image).suffix.lower() in TIFF_SUFFIXES for image in images}) > 1:
        raise DatasetError(f"{folder} holds both JPEG and TIFF; it must hold one edition of EuroSAT.")
    table = LabelTable.of([_row(image) for image in images], CLASSES, f"{folder}, with {len(images)} images,")
    return open_images("eurosat", cache_dir, folder, table, None, augment, shift)


def _images(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _row(image: str) -> TableRow:
    class_name = image.partition("/")[0]
    return TableRow(image, _split(image), tuple(int(name == class_name) for name in CLASSES))


def _split(image: str) -> Split:
    """By the name without its ending, so that both editions are cut alike."""
    percent = int.from_bytes(hashlib.sha256(Path(image).stem.encode()).digest()[:4]) % 100
    return Split.TRAIN if percent < 60 else Split.VAL if percent < 80 else Split.TEST
