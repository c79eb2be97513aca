"""Both editions of EuroSAT, on a miniature of their layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.architecture.sources import REPOSITORY
from tests.trainers.eurosat_images import IMAGES_PER_CLASS, write_jpegs, write_tiffs
from trainers.datasets import DatasetError, Split, eurosat, read_samples

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


def dry_run(*options: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "study/run.py", "--config", "study/configs/eurosat.toml", "--dry-run", *options)
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_the_config_without_the_images_is_answered_with_where_they_are_to_be(tmp_path):
    answer = dry_run("--set", f'dataset.path="{tmp_path}/absent"')

    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [
        f"error: {tmp_path}/absent is not a folder; path must be that of EuroSAT, see docs/datasets/eurosat.md."
    ]


def test_the_config_with_the_images_is_a_study(tmp_path):
    # Of fewer images, none of its large batches could be filled.
    write_jpegs(tmp_path, images_per_class=50)

    answer = dry_run("--set", f'dataset.path="{tmp_path}"')

    assert answer.returncode == 0, answer.stderr
    assert "eurosat" in answer.stdout


def test_a_missing_class_is_named(tmp_path):
    write_jpegs(tmp_path)
    (tmp_path / "River").rename(tmp_path / "Rivers")

    with pytest.raises(DatasetError, match="lacks the folder River;"):
        eurosat.build("", path=str(tmp_path))


def test_every_class_without_images_is_named(tmp_path):
    write_jpegs(tmp_path)
    for path in (tmp_path / "River").iterdir():
        path.unlink()
    for path in (tmp_path / "Forest").iterdir():
        path.rename(path.with_suffix(".webp"))

    with pytest.raises(DatasetError, match=r"holds no image of Forest, River; each class needs some .* \.jpg, \.jpeg,"):
        eurosat.build("", path=str(tmp_path))


@pytest.mark.parametrize(
    ("write", "suffix"), [(write_jpegs, ".jpeg"), (write_jpegs, ".JPG"), (write_tiffs, ".tiff"), (write_tiffs, ".TIF")]
)
def test_all_the_endings_of_image_folder_are_taken(tmp_path, write, suffix):
    write(tmp_path / "images")
    for path in (tmp_path / "images/Forest").iterdir():
        path.rename(path.with_suffix(suffix))

    dataset = eurosat.build(tmp_path / "cache", path=str(tmp_path / "images"))

    assert sum(dataset.sizes().values()) == 10 * IMAGES_PER_CLASS
    assert all(len(dataset.open(split)) for split in (Split.TRAIN, Split.VAL))


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
