"""What is refused before anything is stored or submitted, and with which words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from storage.protocol.codec import from_json
from storage.protocol.exit_codes import ExitCode
from storage.protocol.records import ComponentSpec, TrialSpec
from storage.protocol.trial_dir import TrialDir
from storage.protocol.workload import Workload
from tests.trainers.tiny_trial import DEADLINE_S, LARGE, ROOT, SMALL, TRAIN, switch_at, tiny_spec
from trainers.preflight import check_spec, workload_of

MODEL = """
import keras
from keras import layers


def build(input_shape, classes):
    images = keras.Input(input_shape)
    features = layers.GlobalAveragePooling2D()({features})
    return keras.Model(images, {head}(features))
"""
DROPPED_IN = {
    "gives_probabilities": MODEL.format(features="images", head='layers.Dense(classes, activation="sigmoid")'),
    "gives_a_softmax": MODEL.format(features="images", head='layers.Dense(classes, activation="softmax")'),
    "starts_at_zero": MODEL.format(features="images", head='layers.Dense(classes, kernel_initializer="zeros")'),
    "starts_at_one": MODEL.format(
        features="images", head='layers.Dense(classes, kernel_initializer="zeros", bias_initializer="ones")'
    ),
    "gives_one_class_more": MODEL.format(features="images", head="layers.Dense(classes + 1)"),
    "corrupts_memory": MODEL.format(
        features='layers.Conv2D(4, 1, strides=2, name="shortcut")(images)', head="layers.Dense(classes)"
    ),
    "needs_larger_images": MODEL.format(features="layers.Conv2D(4, 9)(images)", head="layers.Dense(classes)"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the code, with models that somebody has put into trainers/models."""
    tree = tmp_path_factory.mktemp("tree")
    for package in ("trainers", "storage"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, source in DROPPED_IN.items():
        (tree / "trainers/models" / f"{name}.py").write_text(source)
    return tree


def folder_with(spec: TrialSpec, folder: Path) -> Path:
    TrialDir(folder).create(spec)
    return folder


def run_preflight(*arguments: str | Path, tree: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "trainers.preflight", *map(str, arguments)),
        cwd=tree,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def build_with(model: str, tree: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_preflight(folder_with(tiny_spec(model=ComponentSpec(model)), folder / "trial"), "--build", tree=tree)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refused specification, without "error: "."""
    assert (done.returncode, done.stdout) == (ExitCode.BAD_SPEC, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_a_trial_that_can_be_trained_is_built_without_a_word(tmp_path):
    folder = folder_with(tiny_spec(), tmp_path / "trial")

    done = run_preflight(folder, "--build")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in folder.iterdir()} == {"spec.json", "workload.json"}


@pytest.mark.parametrize("model", ["gives_probabilities", "gives_a_softmax"])
def test_a_model_that_gives_probabilities_is_refused(tree, tmp_path, model):
    assert refusal(build_with(model, tree, tmp_path)) == (
        f"model '{model}' gives probabilities: all of its outputs are in [0, 1]. Leave out its last activation: the "
        "loss takes logits."
    )


@pytest.mark.parametrize("model", ["starts_at_zero", "starts_at_one"])
def test_a_model_whose_logits_start_between_0_and_1_is_not_taken_for_one_that_gives_probabilities(
    tree, tmp_path, model
):
    done = build_with(model, tree, tmp_path)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_model_with_the_wrong_number_of_outputs_is_refused_with_the_right_one(tree, tmp_path):
    assert refusal(build_with("gives_one_class_more", tree, tmp_path)) == (
        "model 'gives_one_class_more' gives (4, 20) for 4 images of 19 classes; it must give logits of the shape "
        "(4, 19)."
    )


def test_a_model_that_cannot_be_built_for_these_images_is_refused_with_its_own_words(tree, tmp_path):
    assert "negative" in refusal(build_with("needs_larger_images", tree, tmp_path))


def test_a_model_whose_gradient_corrupts_memory_is_refused_with_the_way_round(tree, tmp_path):
    words = refusal(build_with("corrupts_memory", tree, tmp_path))

    assert "fewer than 16 input channels (shortcut)" in words
    assert "features[:, ::stride, ::stride, :]" in words


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    images = write_images(tmp_path / "images")
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:40])
    spec = spec_of_images(images, cache_dir=str(tmp_path / "cache"))

    assert "3.png cannot be decoded" in refusal(run_preflight(folder_with(spec, tmp_path / "trial"), "--build"))


def test_a_missing_image_is_named(tmp_path):
    images = write_images(tmp_path / "images")
    (images / "3.png").unlink()

    words = refusal(run_preflight(folder_with(spec_of_images(images), tmp_path / "trial")))

    assert "lacks 1 of the 12 images" in words
    assert "3.png" in words


def test_a_missing_data_set_is_named(tmp_path):
    words = refusal(run_preflight(folder_with(spec_of_images(tmp_path / "nowhere"), tmp_path / "trial")))

    assert f"{tmp_path}/nowhere/labels.csv cannot be read: No such file" in words


def test_a_loader_batch_far_beyond_the_data_is_refused_with_one_that_is_not(tmp_path):
    spec = tiny_spec(loader_batch_size=TRAIN + 8)

    assert refusal(run_preflight(folder_with(spec, tmp_path / "trial"))) == (
        "loader_batch_size=104 is what one rank loads at once, but all 2 ranks together have 96 training samples of "
        "synthetic_bigearthnet; use at most 48."
    )


def test_a_batch_beyond_the_data_is_refused_because_no_update_would_be_made(tmp_path):
    spec = tiny_spec(loader_batch_size=64, batch_policy=switch_at(2, small=8, large=128))

    assert refusal(run_preflight(folder_with(spec, tmp_path / "trial"))) == (
        "global_batch_size=128 takes 64 samples of each of the 2 ranks for one update, but each has 48 training "
        "samples of synthetic_bigearthnet; use at most 96."
    )


def test_a_loader_batch_that_takes_more_than_a_ranks_memory_is_refused_with_one_that_does_not(tmp_path):
    folder = folder_with(tiny_spec(loader_batch_size=64), tmp_path / "trial")
    # 8 x 8 pixels of 12 bands: thrice as two bytes, once as four.
    bytes_per_sample = 8 * 8 * 12 * (3 * 2 + 4)

    words = refusal(run_preflight(folder, f"--memory-per-rank={63.5 * bytes_per_sample}"))

    assert words.startswith(
        "loader_batch_size=64 takes 0.0 GiB of each rank for the images alone, and a rank has 0.0 GiB"
    )
    assert words.endswith("use at most 63.")
    assert run_preflight(folder, f"--memory-per-rank={64 * bytes_per_sample}").returncode == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"batch_policy": switch_at(1, small=7)},
            "global_batch_size=7 does not split evenly over 2 ranks; use 4 or 8.",
        ),
        (
            {"dataset": ComponentSpec("synthetic_bigearthnet", {"train": 0})},
            "synthetic_bigearthnet: train=0; it must be an integer of 1 or more.",
        ),
        (
            {"dataset": ComponentSpec("synthetic_bigearthnet", {"train": TRAIN, "val": 1, "size": 8})},
            "the val split of synthetic_bigearthnet holds 1 samples; it needs at least one for each of the 2 ranks.",
        ),
    ],
    ids=["batch", "option", "split"],
)
def test_what_needs_no_model_is_refused_without_building_one(tmp_path, changes, words):
    assert refusal(run_preflight(folder_with(tiny_spec(**changes), tmp_path / "trial"))) == words


def test_every_folder_is_checked_not_only_the_one_that_is_built(tmp_path):
    good = folder_with(tiny_spec(), tmp_path / "0")
    bad = folder_with(tiny_spec(batch_policy=switch_at(1, large=48)), tmp_path / "1")

    assert "global_batch_size=48" in refusal(run_preflight(good, bad, "--build"))


def test_a_folder_without_a_specification_is_refused_by_its_name(tmp_path):
    assert refusal(run_preflight(tmp_path)) == f"{tmp_path} holds no spec.json; a trial directory starts with one."


def test_without_a_build_tensorflow_is_not_waited_for(tmp_path):
    program = (
        "import sys\n"
        "from trainers.preflight import main\n"
        f"sys.argv = ['preflight', {str(folder_with(tiny_spec(), tmp_path / 'trial'))!r}]\n"
        "sys.exit(main() or ('tensorflow' in sys.modules and 'TensorFlow was imported'))"
    )

    done = subprocess.run((sys.executable, "-c", program), cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_each_specification_gets_a_workload_beside_it(tmp_path):
    trial = folder_with(tiny_spec(epochs=3, batch_policy=switch_at(1)), tmp_path / "trial")

    done = run_preflight(trial)

    assert done.returncode == 0, done.stderr
    written = from_json(Workload, (trial / "workload.json").read_text())
    assert written == Workload(TRAIN, [SMALL, LARGE], [SMALL, LARGE, LARGE])


def test_a_policy_that_looks_at_past_epochs_has_no_schedule(tmp_path, monkeypatch):
    package = tmp_path / "doubles"
    package.mkdir()
    (package / "__init__.py").write_text(
        "class Doubles:\n"
        "    global_batch_sizes = (8, 16)\n"
        "    def global_batch_size(self, epoch, history):\n"
        "        return 16 if history and history[-1].train_loss < 1 else 8\n"
        "def build():\n"
        "    return Doubles()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = tiny_spec(batch_policy=ComponentSpec("doubles:build"))

    assert workload_of(spec, check_spec(spec)) == Workload(TRAIN, [8, 16], [])


@pytest.mark.parametrize("loader_batch_size", [TRAIN // 2, TRAIN])
def test_a_loader_batch_may_hold_up_to_twice_what_a_rank_trains_on(loader_batch_size):
    assert len(check_spec(tiny_spec(loader_batch_size=loader_batch_size)).class_names) == 19


def test_all_of_the_data_in_one_loader_batch_are_not_too_much():
    check_spec(tiny_spec(world_size=1, loader_batch_size=TRAIN))
    check_spec(tiny_spec(world_size=2, loader_batch_size=TRAIN))


def spec_of_images(path: Path, **changes: Any) -> TrialSpec:
    dataset = ComponentSpec("image_folder", {"path": str(path)})
    return tiny_spec(dataset=dataset, batch_policy=switch_at(2, small=4, large=8), **changes)


def write_images(folder: Path) -> Path:
    """Eight to train on and four to evaluate."""
    folder.mkdir()
    lines = ["image,split,grass"]
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'train' if number < 8 else 'val'},{number % 2}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder
