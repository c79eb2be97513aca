"""Bad input: one clear error with what to do, exit code 2, and nothing left behind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.protocol.variables import STORAGE_PASSWORD
from tests.architecture.sources import REPOSITORY
from tests.study.driver import Workplace, new_workplace

SECRET = "hunter2"


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return new_workplace(tmp_path, ranks=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--config", "absent.toml"], ["there is no config absent.toml", "demo.toml"], id="no config"),
        pytest.param(["--set", "model.name=vgg"], ["model.name='vgg' does not exist", "small_resnet"], id="no model"),
        pytest.param(["--set", "dataset.name=mnist"], ["'mnist' does not exist", "image_folder"], id="no dataset"),
        pytest.param(["--site", "frontier"], ["there is no site 'frontier'", "local"], id="no site"),
        pytest.param(["--jobs", "0"], ["max_concurrent_trials", "greater than or equal to 1", "got 0"], id="no jobs"),
        pytest.param(["--site-set", "name=x"], ["name='x' is not a key", "as its file is"], id="a named site"),
        pytest.param(["--site-set", "gpus=4"], ["gpus", "Valid keys: launcher", "gpus_per_node"], id="no such key"),
        pytest.param(["--site", "latin.toml"], ["latin.toml cannot be read", "utf-8"], id="a site that is not UTF-8"),
        pytest.param(["--set", "study.sampler=grid"], ["study.sampler='grid'", "random, tpe"], id="no sampler"),
        pytest.param(
            ["--set", "study.runs_dir=runs\nrm -rf x"],
            ["study.runs_dir contains the control character '\\n'"],
            id="a line break in the config",
        ),
        pytest.param(
            ["--site-set", "environment.A=x\x1by"],
            ["environment.A contains the control character '\\x1b'"],
            id="a control character in the site",
        ),
        pytest.param(["--set", f"model.width={'[' * 5000}"], ["model.width", "nested too deeply"], id="nesting"),
        pytest.param(["--config", "deep.toml"], ["deep.toml", "nested too deeply"], id="a nested config"),
        pytest.param(["--site", "deep.toml"], ["deep.toml", "nested too deeply"], id="a nested site"),
        pytest.param(
            ["--set", "study.sampler=tpe", "--warm-start", "nobody"], ["no database", "nobody"], id="no earlier study"
        ),
        pytest.param(["--replay", "nobody"], ["no database", "nobody"], id="no study to replay"),
        pytest.param(["--forecast-from", "nobody"], ["no database", "nobody"], id="no measured study"),
        pytest.param(["--warm-start", "nobody"], ["'random' learns nothing from a warm start"], id="a vain warm start"),
        pytest.param(
            ["--set", 'study.objectives=["f1_micro", "node_hours"]'], ["'node_hours' cannot stand"], id="no objective"
        ),
        pytest.param(["--trials", "0"], ["study.trials", "got 0"], id="no trials"),
        pytest.param(
            ["--set", "batch_policy.small_global_batch_size=15"],
            ["global_batch_size=15 does not split evenly over 2 ranks; use 8 or 16"],
            id="a batch that does not split over the ranks",
        ),
        pytest.param(
            ["--set", "batch_policy.small_global_batch_size=24"],
            ["global_batch_size=24", "does not divide loader_batch_size=32 evenly; use 16 or 32"],
            id="a batch that does not split the loader batch",
        ),
        pytest.param(
            [
                *("--set", 'batch_policy={name="constant"}'),
                *("--set", 'search_space.batch_policy.global_batch_size={type="categorical", choices=[32, 16, 15]}'),
            ],
            ["global_batch_size=15 does not split evenly over 2 ranks; use 8 or 16"],
            id="a choice that does not split over the ranks",
        ),
        pytest.param(
            ["--set", "training.loader_batch_size=5000000"],
            ["loader_batch_size=5000000", "64 training samples of synthetic_bigearthnet", "use at most 32"],
            id="a loader batch far beyond the data",
        ),
        pytest.param(["--set", "dataset.val=1"], ["the val split", "holds 1 samples", "2 ranks"], id="a small split"),
        pytest.param(
            ["--storage", "postgresql://ada@127.0.0.1:1/studies"],
            ["postgresql+psycopg://ada@127.0.0.1:1/studies cannot be used", "Connection refused", STORAGE_PASSWORD],
            id="no database",
        ),
        pytest.param(["--storage", "study.db"], ["--storage", "not a database URL", "sqlite:///FILE"], id="no URL"),
        pytest.param(
            ["--storage", f"postgresql://ada:{SECRET}@db/studies"],
            ["--storage", "password", STORAGE_PASSWORD],
            id="a password on the command line",
        ),
        pytest.param(
            ["--set", f"study.storage=postgresql://ada:{SECRET}@db/studies"],
            ["study.storage", "password", STORAGE_PASSWORD],
            id="a password in the config",
        ),
    ],
)
def test_it_is_told_in_one_line_with_what_to_do_and_leaves_nothing_behind(workplace, arguments, said):
    (workplace.folder / "latin.toml").write_bytes("# J\xfclich".encode("latin-1"))
    (workplace.folder / "deep.toml").write_text(f"a = {'[' * 5000}{']' * 5000}")
    before = set(workplace.files())

    error = workplace.run(*arguments, **{STORAGE_PASSWORD: SECRET}).error

    for words in said:
        assert words in error
    assert SECRET not in error
    assert set(workplace.files()) == before


MODEL_OF_PROBABILITIES = """
import keras


def build(input_shape, classes):
    images = keras.Input(input_shape)
    features = keras.layers.GlobalAveragePooling2D()(images)
    return keras.Model(images, keras.layers.Dense(classes, activation="sigmoid")(features))
"""


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param("def build(input_shape, classes)\n", ["own.py, line 1", "not Python"], id="a syntax error"),
        pytest.param(
            MODEL_OF_PROBABILITIES,
            ["model 'own' gives probabilities", "the loss takes logits"],
            id="probabilities in the place of logits",
        ),
    ],
)
def test_a_model_of_one_s_own_that_cannot_be_trained_is_told_before_anything_is_stored(workplace, model, said):
    tree = workplace.folder / "tree"
    for package in ("study", "cluster", "storage", "trainers"):
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "trainers/models/own.py").write_text(model)
    here = replace(workplace, program=tree / "study/run.py")
    before = files_of_studies(here)

    error = here.run("--set", "model={name='own'}").error

    for words in said:
        assert words in error
    assert files_of_studies(here) == before


def files_of_studies(workplace: Workplace) -> set[str]:
    """Python keeps what it has compiled beside its source."""
    return {path for path in workplace.files() if not path.startswith("tree/")}


def write_images(folder: Path, rows: list[str]) -> None:
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / name)
    (folder / "labels.csv").write_text("\n".join(["image,split,grass,water", *rows]) + "\n")


GOOD_ROWS = ["a.png,train,1,0", "b.png,train,0,1", "c.png,val,1,1", "d.png,val,0,0"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param([*GOOD_ROWS, "e.png,train,1,0"], ["e.png"], id="a missing file"),
        pytest.param(
            [row.replace("val", "train") for row in GOOD_ROWS], ["no image in the split val"], id="an empty split"
        ),
        pytest.param([], ["labels.csv"], id="no rows"),
        pytest.param(None, ["labels.csv"], id="no table"),
    ],
)
def test_images_that_are_not_as_their_table_says_are_told_before_anything_is_stored(workplace, rows, said):
    images = workplace.folder / "images"
    write_images(images, rows or [])
    if rows is None:
        (images / "labels.csv").unlink()
    before = set(workplace.files())

    error = workplace.run("--set", 'dataset={name="image_folder", path="images"}').error

    for words in said:
        assert words in error
    assert set(workplace.files()) == before


def test_images_that_are_as_their_table_says_pass_the_same_check(workplace):
    write_images(workplace.folder / "images", GOOD_ROWS)

    settings = [
        "training.loader_batch_size=1",
        'batch_policy={name="constant", global_batch_size=2}',
        'dataset={name="image_folder", path="images"}',
    ]
    checked = workplace.run("--dry-run", *(word for setting in settings for word in ("--set", setting)))

    assert checked.exit_code == 0, checked.output
