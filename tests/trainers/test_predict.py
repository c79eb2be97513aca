"""`study/predict.py`, as a person starts it, on exports of real trials."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine

from storage.protocol.exports import TrialToExport
from storage.protocol.records import ComponentSpec
from tests.architecture.sources import REPOSITORY
from tests.trainers.eurosat_images import IMAGES_PER_CLASS, write_jpegs
from tests.trainers.tiny_trial import DEADLINE_S
from tests.trainers.trained_trial import evaluate_as_the_trainer, request_for, train_trial
from trainers.export.folder import export

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

SPLITS = {"train": 20, "val": 8, "test": 6}


class Exported(NamedTuple):
    trial: TrialToExport
    path: Path


class Finished(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that it said before it ended with exit code 2."""
        assert self.exit_code == 2, self
        assert self.stderr.startswith("error: "), self
        assert self.stderr.count("\n") == 1, self
        return self.stderr


def predict(*arguments: str | Path) -> Finished:
    done = subprocess.run(
        (sys.executable, REPOSITORY / "study/predict.py", *map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def write_images(folder: Path) -> Path:
    """Photographs of several sizes, with their table."""
    rng, lines = np.random.default_rng(0), ["image,split,grass,water"]
    for split, count in SPLITS.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            name = f"{split}/{number:02d}.{'png' if number % 2 else 'jpg'}"
            Image.fromarray(rng.integers(0, 256, (10 + number, 30 - number, 3), np.uint8)).save(folder / name)
            lines.append(f"{name},{split},{number % 2},{number // 2 % 2}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def of_photographs(tmp_path_factory) -> Exported:
    """Of images that the data set resizes, which bear any number of labels."""
    folder = tmp_path_factory.mktemp("photographs")
    options = {"path": str(write_images(folder / "images")), "size": 16}
    trial = train_trial(folder / "0000", dataset=ComponentSpec("image_folder", options))
    export(request_for(folder / "out", trial))
    return Exported(trial, folder / "out")


@pytest.fixture(scope="module")
def of_scenes(tmp_path_factory) -> Exported:
    """Of uint16 [8, 8, 12] with any number of 19 labels."""
    folder = tmp_path_factory.mktemp("scenes")
    trial = train_trial(folder / "0000")
    export(request_for(folder / "out", trial))
    return Exported(trial, folder / "out")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def probabilities_in(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(value) for value in list(row.values())[2:]] for row in rows])


def test_image_files_get_the_probabilities_that_the_trainer_gives_the_test_split(of_photographs, tmp_path):
    images = of_photographs.path.parent / "images" / "test"

    done = predict(of_photographs.path, images, "--out", tmp_path / "new" / "table.csv")

    assert done.exit_code == 0, done
    rows = rows_of(tmp_path / "new" / "table.csv")
    assert list(rows[0]) == ["file", "labels", "grass", "water"]
    assert [row["file"] for row in rows] == [str(path) for path in sorted(images.iterdir())]
    _, expected = evaluate_as_the_trainer(of_photographs.trial)
    np.testing.assert_allclose(probabilities_in(rows), expected, atol=1e-5)
    for row in rows:
        assert row["labels"] == ";".join(name for name in ("grass", "water") if float(row[name]) > 0.5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.csv"]


def test_arrays_of_stored_samples_get_them_too(of_scenes, tmp_path):
    samples, expected = evaluate_as_the_trainer(of_scenes.trial)
    np.save(tmp_path / "samples.npy", samples)

    done = predict(of_scenes.path, tmp_path / "samples.npy", "--out", tmp_path / "table.csv")

    assert done.exit_code == 0, done
    rows = rows_of(tmp_path / "table.csv")
    assert [row["file"] for row in rows[:2]] == [f"{tmp_path / 'samples.npy'}[{n}]" for n in (0, 1)]
    np.testing.assert_allclose(probabilities_in(rows), expected, atol=1e-5)


def test_one_label_is_the_most_probable_class(tmp_path):
    write_jpegs(tmp_path / "images")
    trial = train_trial(
        tmp_path / "0000",
        dataset=ComponentSpec("eurosat", {"path": str(tmp_path / "images")}),
        task=ComponentSpec("single_label"),
        objective="accuracy",
    )
    export(request_for(tmp_path / "out", trial))

    done = predict(tmp_path / "out", tmp_path / "images" / "River", "--out", tmp_path / "table.csv")

    assert done.exit_code == 0, done
    rows = rows_of(tmp_path / "table.csv")
    assert len(rows) == IMAGES_PER_CLASS
    for row, probabilities in zip(rows, probabilities_in(rows), strict=True):
        assert row["labels"] == list(row)[2:][np.argmax(probabilities)]
        assert probabilities.sum() == pytest.approx(1)


def test_a_scene_becomes_a_map_of_what_the_trainer_says_of_each_window(of_scenes, tmp_path):
    samples, expected = evaluate_as_the_trainer(of_scenes.trial)
    pixels = samples[:6].reshape(2, 3, 8, 8, 12).swapaxes(1, 2).reshape(16, 24, 12)
    write_scene(tmp_path / "scene.tif", pixels)

    done = predict(of_scenes.path, tmp_path / "scene.tif", "--out", tmp_path / "map.tif", "--stride", "8")

    assert done.exit_code == 0, done
    with rasterio.open(tmp_path / "map.tif") as raster:
        found = np.moveaxis(raster.read(), 0, -1)
        assert raster.crs.to_epsg() == 32632
        assert raster.transform == Affine(80, 0, 500_000, 0, -80, 5_000_000)
        assert raster.count == 19
    np.testing.assert_allclose(found.reshape(6, 19), expected[:6], atol=1e-5)


def write_scene(path: Path, pixels: np.ndarray) -> None:
    height, width, bands = pixels.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": pixels.dtype}
    place = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with rasterio.open(path, "w", crs="EPSG:32632", transform=place, **profile) as raster:
        raster.write(np.moveaxis(pixels, -1, 0))


@pytest.fixture
def inputs(tmp_path) -> Path:
    """One of each kind that does not fit a model of uint16 [8, 8, 12]."""
    np.save(tmp_path / "large.npy", np.zeros((2, 9, 9, 12), np.uint16))
    np.save(tmp_path / "float.npy", np.zeros((2, 8, 8, 12), np.float32))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "colour.png")
    write_scene(tmp_path / "scene.tif", np.zeros((16, 24, 12), np.uint16))
    write_scene(tmp_path / "three.tif", np.zeros((16, 24, 3), np.uint16))
    return tmp_path


BAD_INPUT = {
    "not there": (["gone.png"], "table.csv", "gone.png is not there"),
    "a folder without images": (["empty"], "table.csv", "empty holds no image"),
    "another kind of file": (["notes.txt"], "table.csv", "notes.txt is of no kind that is read"),
    "an array of another size": (["large.npy"], "table.csv", "uint16 [2, 9, 9, 12], and the model takes uint16 [n, 8"),
    "an array of another type": (["float.npy"], "table.csv", "float.npy is float32"),
    "no array": (["text.npy"], "table.csv", "cannot be read as an array"),
    "no image": (["text.png"], "table.csv", "text.png cannot be decoded"),
    "an image with other bands": (
        ["colour.png"],
        "table.csv",
        "8 x 8 with 3 bands of uint8, and the model takes 8 x 8",
    ),
    "an image of another size": (["scene.tif"], "table.csv", "does not resize images; a georeferenced scene is read"),
    "another kind of output": (["scene.tif"], "map.jpg", "must end in .csv for a table, or in .tif"),
    "an output that is there": (["scene.tif"], "notes.txt", "notes.txt is there already"),
    "a stride for a table": (["scene.tif", "--stride", "4"], "table.csv", "--stride is for the map of a scene"),
    "two scenes": (["scene.tif", "three.tif"], "map.tif", "a map is of one scene, and there are 2"),
    "a scene with other bands": (["three.tif"], "map.tif", "three.tif has 3 bands, and the model takes 12 (B01, B02"),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_one_error_and_nothing_is_written(what, of_scenes, inputs, tmp_path, monkeypatch):
    arguments, out, words = BAD_INPUT[what]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())

    assert words in predict(of_scenes.path, *arguments, "--out", out).error
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_not_an_export_is_one_error(inputs, tmp_path):
    done = predict(tmp_path, inputs / "large.npy", "--out", tmp_path / "table.csv")

    assert "is not an export: export.json cannot be read" in done.error


def test_an_export_whose_model_is_damaged_is_one_error(of_scenes, inputs, tmp_path):
    shutil.copytree(of_scenes.path, tmp_path / "export")
    model = tmp_path / "export" / "model.keras"
    model.write_bytes(model.read_bytes()[:-200])

    done = predict(tmp_path / "export", inputs / "scene.tif", "--out", tmp_path / "map.tif")

    assert "model.keras cannot be loaded" in done.error
    assert not (tmp_path / "map.tif").exists()


def test_an_export_of_a_later_version_is_one_error(of_scenes, inputs, tmp_path):
    shutil.copytree(of_scenes.path, tmp_path / "export")
    record = tmp_path / "export" / "export.json"
    record.write_text(record.read_text().replace('"format_version": 1', '"format_version": 2'))

    done = predict(tmp_path / "export", inputs / "scene.tif", "--out", tmp_path / "map.tif")

    assert "has format 2, and this version reads up to 1" in done.error
