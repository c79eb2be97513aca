"""Real patches and the official lists, which are not part of the project: skipped where they are not beside it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from trainers.bigearthnet import Version
from trainers.bigearthnet.bands import ROW
from trainers.bigearthnet.labels import CLASS_OF_NAME, CLASSES
from trainers.bigearthnet.plan import OFFICIAL_ARCHIVE_SIZE, OFFICIAL_SIZES
from trainers.bigearthnet.prepare import Preparation, prepare
from trainers.bigearthnet.prepared import read_names
from trainers.bigearthnet.split_lists import STATUS_OF_SPLIT, SplitLists, Status, read_split_lists
from trainers.bigearthnet.synthesize import MIN_PATCHES, synthesize
from trainers.datasets import Split, bigearthnet, read_samples

DATA = Path(__file__).resolve().parents[4] / "shared/data"
PATCHES = DATA / "bigearthnet_patches"
LISTS = {
    Version.V1: DATA / "bigearthnet_metadata/v1_splits",
    Version.V2: DATA / "bigearthnet_metadata/metadata.parquet",
}

FACTS = DATA / "bigearthnet_metadata/label_facts.json"

pytestmark = pytest.mark.skipif(not PATCHES.exists(), reason=f"no official data in {DATA}")


@pytest.fixture(scope="module", params=Version)
def version(request) -> Version:
    return request.param


@pytest.fixture(scope="module")
def lists(version) -> SplitLists:
    return read_split_lists(version, LISTS[version])


@pytest.fixture(scope="module")
def prepared(version, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(version)
    prepare(Preparation(PATCHES / version, version, LISTS[version], out, limit=9))
    return out


def test_the_official_lists_give_the_official_sizes(version, lists):
    counts = Counter(lists.status.tolist())

    assert {split: counts[code] for split, code in STATUS_OF_SPLIT.items()} == OFFICIAL_SIZES[version]
    assert len(lists) == OFFICIAL_ARCHIVE_SIZE[version]
    assert not lists.bad


def test_the_lists_drop_as_many_patches_as_officially(version, lists):
    counts = Counter(lists.status.tolist())

    dropped = {Status.SNOW: 61_707, Status.CLOUD_OR_SHADOW: 9_280, Status.NO_CLASS: 57}
    if version is Version.V1:
        # Two patches without a class are on another list too: they count once, under the later one.
        assert counts[Status.NO_CLASS] == dropped[Status.NO_CLASS]
        assert sum(counts[status] for status in dropped) == sum(dropped.values()) - 2
    else:
        assert counts[Status.SNOW] + counts[Status.CLOUD_OR_SHADOW] == 69_450


def test_the_43_names_become_the_classes_that_they_officially_become():
    facts = json.loads(FACTS.read_bytes())

    assert facts["map_43_to_19"] == CLASS_OF_NAME
    assert list(CLASSES) == facts["labels_19_original_order"]


def test_labels_and_splits_of_real_patches_are_the_official_ones(version, prepared):
    with (PATCHES / "index.csv").open() as file:
        index = {row["patch"]: row for row in csv.DictReader(file) if row["version"] == version}
    found = {}
    for split in Split:
        source = bigearthnet.build("", path=str(prepared)).open(split)
        _, labels = read_samples(source, np.arange(len(source)))
        for name, label in zip(read_names(prepared, split), labels, strict=True):
            found[name] = (split, {CLASSES[bit] for bit in np.flatnonzero(label)})

    listed = {name: row for name, row in index.items() if row["seasonal_snow"] == "False"}
    assert set(found) == set(listed)
    for name, (split, classes) in found.items():
        assert classes == set(listed[name]["labels19"].split("|"))
        assert split == listed[name][f"{version}_split"].replace("validation", "val")


def test_pixels_of_real_patches_are_those_that_rasterio_reads(version, prepared):
    for split in Split:
        source = bigearthnet.build("", path=str(prepared)).open(split)
        samples, _ = read_samples(source, np.arange(len(source)))
        for name, sample in zip(read_names(prepared, split), samples, strict=True):
            folder = next((PATCHES / version).glob(f"BigEarthNet-*/**/{name}"))
            for band in ROW:
                with rasterio.open(folder / f"{name}_{band.name}.tif") as tiff:
                    np.testing.assert_array_equal(band.of(sample), tiff.read(1))


def test_resampling_of_real_patches_on_the_device_is_gdals(version, prepared):
    # GDAL rounds to whole digital numbers; TensorFlow does not: half a number apart at most.
    dataset = bigearthnet.build("", path=str(prepared))
    split = next(split for split in Split if dataset.sizes()[split])
    name = read_names(prepared, split)[0]
    samples, _ = read_samples(dataset.open(split), np.array([0]))

    images = dataset.to_model_input(samples).numpy()[0]

    folder = next((PATCHES / version).glob(f"BigEarthNet-*/**/{name}"))
    for index, band in enumerate(dataset.bands):
        with rasterio.open(folder / f"{name}_{band.name}.tif") as tiff:
            expected = tiff.read(1, out_shape=(120, 120), resampling=Resampling.bilinear)
        actual = images[..., index] * np.float32(band.std) + np.float32(band.mean)
        assert abs(actual - expected.astype(np.float32)).max() <= 0.51


def test_practice_files_have_the_tags_of_real_ones(version, tmp_path):
    synthesize(version, MIN_PATCHES, tmp_path)

    assert kinds_of_files(tmp_path) == kinds_of_files(PATCHES / version)


def kinds_of_files(archive: Path) -> dict[str, set[str]]:
    """For each band, all that its files say of themselves but for the place on Earth."""
    kinds: dict[str, set[str]] = {}
    for path in archive.rglob("*.tif"):
        with rasterio.open(path) as tiff:
            profile = {name: value for name, value in tiff.profile.items() if name not in ("crs", "transform")}
            place = (tiff.crs.to_epsg() // 100, tiff.transform.a, tiff.transform.e)
            said = (profile, place, tiff.tags(), tiff.tags(ns="IMAGE_STRUCTURE"), tiff.tags(1), tiff.colorinterp)
        kinds.setdefault(path.stem.rpartition("_")[2], set()).add(str(said))
    return kinds
