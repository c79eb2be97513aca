"""Both editions of EuroSAT, on a miniature of their layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from trainers.datasets import DatasetError, Split, eurosat, read_samples

IMAGES_PER_CLASS = 6


def write_jpegs(folder: Path) -> None:
    for name in eurosat.CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(1, IMAGES_PER_CLASS + 1):
            Image.new("RGB", (64, 64), (number, 100, 200)).save(folder / name / f"{name}_{number}.jpg")


def write_tiffs(folder: Path) -> None:
    profile = {"driver": "GTiff", "count": 13, "width": 64, "height": 64, "dtype": "uint16"}
    for name in eurosat.CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(1, IMAGES_PER_CLASS + 1):
            with rasterio.open(folder / name / f"{name}_{number}.tif", "w", **profile) as tiff:
                tiff.write(np.full((13, 64, 64), 1000 * number, np.uint16))


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize(("write", "bands"), [(write_jpegs, 3), (write_tiffs, 13)])
def test_each_edition_is_read_with_its_bands_and_one_label_per_image(tmp_path, write, bands):
    write(tmp_path / "images")

    dataset = eurosat.build(tmp_path / "cache", path=str(tmp_path / "images"))

    assert dataset.input_shape == (64, 64, bands)
    assert sum(dataset.sizes().values()) == 10 * IMAGES_PER_CLASS
    source = dataset.open(Split.TRAIN)
    _, labels = read_samples(source, np.arange(len(source)))
    assert (labels.sum(axis=1) == 1).all()


def test_both_editions_are_split_alike(tmp_path):
    write_jpegs(tmp_path / "rgb")
    write_tiffs(tmp_path / "all")

    rgb, all_bands = (eurosat.build("", path=str(tmp_path / edition)) for edition in ("rgb", "all"))

    assert [Path(image).stem for image in rgb.table.images] == [Path(image).stem for image in all_bands.table.images]
    assert rgb.sizes() == all_bands.sizes()


def test_a_missing_class_is_named(tmp_path):
    write_jpegs(tmp_path)
    (tmp_path / "River").rename(tmp_path / "Rivers")

    with pytest.raises(DatasetError, match="lacks the folder River;"):
        eurosat.build("", path=str(tmp_path))


def test_both_editions_in_one_folder_are_refused(tmp_path):
    write_jpegs(tmp_path)
    (tmp_path / "River/River_99.tif").write_bytes(b"")

    with pytest.raises(DatasetError, match="holds both JPEG and TIFF; it must hold one edition"):
        eurosat.build("", path=str(tmp_path))


def test_too_few_images_for_a_split_are_counted(tmp_path):
    write_jpegs(tmp_path)
    for path in tmp_path.glob("*/*_[2-6].jpg"):
        path.unlink()
    for path in tmp_path.glob("*/*.jpg"):
        # All of them fall to train.
        path.rename(path.with_name("1.jpg"))

    with pytest.raises(DatasetError, match="with 10 images, has no image in the split val; train and val need"):
        eurosat.build("", path=str(tmp_path))
