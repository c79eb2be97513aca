from __future__ import annotations

import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from trainers.components import ComponentError
from trainers.datasets import DatasetError, Split, image_folder, read_samples

REPOSITORY = Path(__file__).resolve().parents[2]
UC_MERCED = REPOSITORY.parent / "shared/data/ucmerced_multilabel"


def test_each_split_gives_the_images_and_labels_of_its_rows_in_the_order_of_the_table(tmp_path):
    images = {name: write_picture(tmp_path / name, seed) for seed, name in enumerate(("a.png", "b.png", "c.png"))}
    write_table(tmp_path, "image,split,grass,water", "c.png,train,1,1", "b.png,val,0,0", "a.png,train,0,1")

    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    samples, labels = read_samples(dataset.open(Split.TRAIN), np.array([0, 1]))
    np.testing.assert_array_equal(samples, [images["c.png"], images["a.png"]])
    assert labels.tolist() == [[1, 1], [0, 1]]
    assert dataset.sizes() == {Split.TRAIN: 2, Split.VAL: 1, Split.TEST: 0}
    assert dataset.class_names == ("grass", "water")


def test_the_columns_may_stand_in_any_order(tmp_path):
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png")
    write_table(tmp_path, "grass,split,image,water", "1,train,a.png,0", "0,val,b.png,1")

    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    assert dataset.class_names == ("grass", "water")
    assert read_samples(dataset.open(Split.VAL), np.array([0]))[1].tolist() == [[0, 1]]


def test_a_table_from_a_spreadsheet_may_begin_with_a_byte_order_mark(tmp_path):
    write_two_pictures(tmp_path)
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))

    assert image_folder.build(tmp_path / "cache", path=str(tmp_path)).class_names == ("grass",)


@pytest.mark.parametrize(("mode", "bands"), [("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("1", 1), ("I;16", 1)])
def test_a_picture_has_one_band_or_three(tmp_path, mode, bands):
    for name in ("a.png", "b.png"):
        picture = Image.new("I;16", (8, 8), 1000) if mode == "I;16" else Image.new("RGB", (8, 8)).convert(mode)
        picture.save(tmp_path / name)
    write_table(tmp_path, "image,split,grass", "a.png,train,1", "b.png,val,0")

    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    assert dataset.sample_shape == (8, 8, bands)
    assert dataset.sample_dtype == ("uint16" if mode == "I;16" else "uint8")


def test_a_tiff_keeps_all_its_bands_and_its_digital_numbers(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (6, 5, 12), np.uint16)
    write_tiff(tmp_path / "a.tif", pixels)
    write_tiff(tmp_path / "b.TIFF", pixels + 1)
    write_table(tmp_path, "image,split,grass", "a.tif,train,1", "b.TIFF,val,0")

    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    assert (dataset.input_shape, dataset.sample_dtype) == ((6, 5, 12), np.uint16)
    np.testing.assert_array_equal(read_samples(dataset.open(Split.TRAIN), np.array([0]))[0], [pixels])


def test_images_without_a_place_on_earth_raise_no_warning(tmp_path):
    write_two_tiffs(tmp_path)

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)
        dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))
        dataset.open(Split.TRAIN)


def test_size_makes_images_of_different_sizes_alike(tmp_path):
    write_tiff(tmp_path / "a.tif", np.full((9, 7, 5), 40_000, np.uint16))
    write_tiff(tmp_path / "b.tif", np.full((16, 32, 5), 7, np.uint16))
    write_table(tmp_path, "image,split,grass", "a.tif,train,1", "b.tif,val,0")

    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path), size=8)

    assert dataset.sample_shape == (8, 8, 5)
    assert (dataset.open(Split.TRAIN).samples == 40_000).all()
    assert (dataset.open(Split.VAL).samples == 7).all()


def test_standardisation_follows_the_training_split_alone(tmp_path):
    training = [write_picture(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    write_picture(tmp_path / "val.png", black=True)
    rows = [f"{i}.png,train,1" for i in range(3)]
    write_table(tmp_path, "image,split,grass", *rows, "val.png,val,1")
    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    standardised = dataset.to_model_input(np.array(training)).numpy()

    np.testing.assert_allclose(standardised.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standardised.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_a_band_that_never_changes_becomes_zero(tmp_path):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, black=True)
    write_table(tmp_path, "image,split,grass", "a.png,train,1", "b.png,val,0")
    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    assert not dataset.to_model_input(dataset.open(Split.TRAIN).samples).numpy().any()


def test_decoded_images_are_not_decoded_again(tmp_path):
    write_two_pictures(tmp_path)
    before = open_training_samples(tmp_path)

    # As large and as old as before, so that nothing but decoding could tell.
    age = (tmp_path / "b.png").stat()
    (tmp_path / "b.png").write_bytes(b"?" * age.st_size)
    os.utime(tmp_path / "b.png", ns=(age.st_atime_ns, age.st_mtime_ns))

    np.testing.assert_array_equal(open_training_samples(tmp_path), before)


def test_a_changed_image_is_decoded_again(tmp_path):
    write_two_pictures(tmp_path)
    open_training_samples(tmp_path)

    changed = write_picture(tmp_path / "a.png", seed=99)
    os.utime(tmp_path / "a.png", ns=(0, 0))

    np.testing.assert_array_equal(open_training_samples(tmp_path), [changed])


def test_other_labels_need_no_decoding(tmp_path):
    write_two_pictures(tmp_path)
    open_training_samples(tmp_path)
    entries = sorted((tmp_path / "cache").iterdir())

    write_table(tmp_path, "image,split,water,sand", "a.png,train,0,1", "b.png,val,1,1")
    open_training_samples(tmp_path)

    assert sorted((tmp_path / "cache").iterdir()) == entries


def test_of_several_processes_that_start_at_once_one_decodes(tmp_path):
    # Enough of them that a process which did not wait would find no finished entry.
    names = [f"{i}.png" for i in range(20)]
    for name in names:
        write_picture(tmp_path / name, shape=(400, 400, 3))
    write_table(tmp_path, "image,split,grass", *(f"{name},train,1" for name in names[1:]), f"{names[0]},val,0")
    program = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from trainers.datasets import Split, image_folder\n"
        f"dataset = image_folder.build({str(tmp_path / 'cache')!r}, path={str(tmp_path)!r})\n"
        "print(dataset.open(Split.TRAIN).samples.sum())"
    )
    processes = [
        subprocess.Popen((sys.executable, "-c", program), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]

    outputs = [process.communicate(timeout=120)[0] for process in processes]

    assert sum("decoding 20 images" in output for output in outputs) == 1
    assert len({output.split()[-1] for output in outputs}) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no column 'image'; its columns are none"),
        (["picture,split,grass", "a.png,train,1"], "no column 'image'; its columns are picture, split, grass"),
        (["image,grass", "a.png,1"], "no column 'split'"),
        (["image,split", "a.png,train"], "has no class"),
        (["image,split,grass,grass", "a.png,train,1,1"], r"2 column\(s\) called 'grass'"),
        ([",image,split,grass", "0,a.png,train,1"], r"1 column\(s\) called ''"),
        (["image,split,grass", "a.png,train"], "line 2 has 2 cells; the header has 3"),
        (["image,split,grass", "a.png,training,1"], "line 2: split is 'training'; it must be one of train, val, test"),
        (["image,split,grass", "a.png,train,1", "b.png,val,0.5"], "line 3: grass is '0.5'; it must be 0 or 1"),
        (["image,split,grass", "a.gif,train,1"], r"line 2: image is 'a.gif'; its name must end in one of \.jpg"),
        (["image,split,grass", "a.png,train,1", "./a.png,val,1"], "lists a.png 2 times"),
        (["image,split,grass", "b.png,val,1"], "no image in the split train"),
        (["image,split,grass", "a.png,train,1"], "no image in the split val"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_reason(tmp_path, lines, message):
    write_two_pictures(tmp_path)
    write_table(tmp_path, *lines)

    with pytest.raises(DatasetError, match=message):
        image_folder.build(tmp_path / "cache", path=str(tmp_path))


def test_a_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(DatasetError, match=r"labels\.csv is not UTF-8"):
        image_folder.build(tmp_path / "cache", path=str(tmp_path))


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"labels\.csv cannot be read: No such file"):
        image_folder.build(tmp_path / "cache", path=str(tmp_path))


@pytest.mark.parametrize("size", [0, -8, 2.5, "64"])
def test_an_impossible_size_is_refused(tmp_path, size):
    with pytest.raises(ComponentError, match="it must be an integer of 1 or more"):
        image_folder.build(tmp_path / "cache", path=str(tmp_path), size=size)


def test_missing_images_are_counted_and_the_first_are_named(tmp_path):
    write_two_pictures(tmp_path)
    gone = [f"gone{i}.png,train,1" for i in range(5)]
    write_table(tmp_path, "image,split,grass", "a.png,train,1", *gone, "b.png,val,0")

    with pytest.raises(DatasetError, match=r"lacks 5 of the 7 images .* gone0\.png, gone1\.png, gone2\.png;"):
        image_folder.build(tmp_path / "cache", path=str(tmp_path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_broken_image_is_named_and_nothing_half_written_stays(tmp_path, suffix, damage):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    broken = tmp_path / f"broken.{suffix}"
    for path in (tmp_path / f"good.{suffix}", broken):
        write_tiff(path, pixels) if suffix == "tif" else Image.fromarray(pixels).save(path)
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"?" * len(content))
    write_table(tmp_path, "image,split,grass", f"good.{suffix},train,1", f"broken.{suffix},val,0")
    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    with pytest.raises(DatasetError, match=rf"broken\.{suffix} cannot be decoded: .*; replace it"):
        dataset.open(Split.TRAIN)

    assert decoded_files(tmp_path / "cache") == []


def test_an_image_unlike_the_others_is_named(tmp_path):
    write_picture(tmp_path / "a.png", shape=(8, 8, 3))
    write_picture(tmp_path / "b.png", shape=(6, 8, 3))
    write_table(tmp_path, "image,split,grass", "a.png,train,1", "b.png,val,0")
    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    with pytest.raises(DatasetError, match=r"b\.png is 6 x 8 with 3 bands of uint8, but .*a\.png is 8 x 8 .*size="):
        dataset.open(Split.TRAIN)


def test_pixels_that_are_no_small_integers_are_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", np.zeros((4, 4, 2), np.float32))
    write_table(tmp_path, "image,split,grass", "a.tif,train,1", "a.tiff,val,0")
    (tmp_path / "a.tiff").symlink_to("a.tif")

    with pytest.raises(DatasetError, match=r"a\.tif holds float32 pixels; convert them to uint8 or uint16"):
        image_folder.build(tmp_path / "cache", path=str(tmp_path))


def test_a_full_disk_is_reported_and_nothing_half_written_stays(tmp_path):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, shape=(256, 256, 3))
    write_table(tmp_path, "image,split,grass", "a.png,train,1", "b.png,val,0")
    dataset = image_folder.build(tmp_path / "cache", path=str(tmp_path))

    with largest_file_bytes(200_000), pytest.raises(DatasetError, match=r"cannot be kept in .*cache: .*; make room"):
        dataset.open(Split.TRAIN)

    assert decoded_files(tmp_path / "cache") == []
    assert len(dataset.open(Split.TRAIN)) == 1, "there is room again"


def test_a_cache_directory_that_cannot_be_made_is_named(tmp_path):
    write_two_pictures(tmp_path)
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(DatasetError, match=r"cannot be kept in .*cache: .*; make room there or set another cache_dir"):
        image_folder.build(tmp_path / "cache", path=str(tmp_path)).open(Split.TRAIN)


def test_a_damaged_cache_entry_is_named(tmp_path):
    write_two_pictures(tmp_path)
    open_training_samples(tmp_path)
    (samples,) = (tmp_path / "cache").glob("*/samples.npy")
    os.truncate(samples, 130)

    with pytest.raises(DatasetError, match=r"image_folder-\w+ is damaged .*; delete it"):
        open_training_samples(tmp_path)


@pytest.mark.skipif(not UC_MERCED.is_dir(), reason=f"the UC Merced images are not at {UC_MERCED}")
def test_uc_merced_loads(tmp_path):
    dataset = image_folder.build(tmp_path, path=str(UC_MERCED), size=32)

    train = dataset.open(Split.TRAIN)

    assert dataset.sizes() == {Split.TRAIN: 1260, Split.VAL: 420, Split.TEST: 420}
    assert (dataset.sample_shape, len(dataset.class_names)) == ((32, 32, 3), 17)
    assert 3 < train.labels.sum(axis=1).mean() < 4
    assert train.samples.std() > 20


def write_table(folder: Path, *lines: str) -> None:
    (folder / "labels.csv").write_text("".join(f"{line}\n" for line in lines))


def write_picture(path: Path, seed: int = 0, *, shape: Sequence[int] = (8, 8, 3), black: bool = False) -> np.ndarray:
    pixels = np.zeros(shape, np.uint8) if black else np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def write_two_pictures(folder: Path) -> None:
    write_picture(folder / "a.png", seed=1)
    write_picture(folder / "b.png", seed=2)
    write_table(folder, "image,split,grass", "a.png,train,1", "b.png,val,0")


def write_tiff(path: Path, pixels: np.ndarray) -> None:
    height, width, bands = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", "GTiff", width, height, bands, dtype=pixels.dtype) as image:
            image.write(np.moveaxis(pixels, -1, 0))


def write_two_tiffs(folder: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write_tiff(folder / name, np.ones((4, 4, 2), np.uint8))
    write_table(folder, "image,split,grass", "a.tif,train,1", "b.tif,val,0")


def open_training_samples(folder: Path) -> np.ndarray:
    return image_folder.build(folder / "cache", path=str(folder)).open(Split.TRAIN).samples


def decoded_files(cache_dir: Path) -> list[Path]:
    return [path for path in cache_dir.rglob("*") if path.suffix != ".lock"]


@contextmanager
def largest_file_bytes(limit: int) -> Iterator[None]:
    """Writing fails at this size with an OSError, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
