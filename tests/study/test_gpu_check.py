"""`make gpu-check` with two ranks on this machine, one form of whose step cannot be compiled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY

# Numpy in the middle of a graph: TensorFlow runs it, and XLA refuses.
MODEL = """
import keras
import tensorflow as tf


class OnHost(keras.layers.Layer):
    def call(self, images):
        copied = tf.numpy_function(lambda array: array, [images], tf.float32)
        return tf.ensure_shape(copied, images.shape)


def build(input_shape, class_count):
    images = keras.Input(input_shape)
    features = keras.layers.Conv2D(4, 3)(OnHost()(images))
    features = keras.layers.BatchNormalization()(features)
    return keras.Model(images, keras.layers.Dense(class_count)(keras.layers.GlobalAveragePooling2D()(features)))
"""

CONFIG = """
[study]
name = "checked"
trials = 2

[training]
epochs = 2
loader_batch_size = 8

[model]
name = "checked_models:build"

[dataset]
name = "synthetic_bigearthnet"
size = 8
train = 64
val = 16

[optimizer]
name = "sgd"
momentum = 0.9

[batch_policy]
name = "switch_at_epoch"
small_global_batch_size = 4
large_global_batch_size = 16
switch_epoch = 1

[search_space.optimizer]
learning_rate = { type = "float", low = 1e-3, high = 1.0, log = true }
"""


@pytest.mark.timeout(600)
def test_a_form_of_the_step_that_fails_is_a_row_with_its_reason_and_the_others_are_measured(tmp_path: Path) -> None:
    (tmp_path / "checked_models.py").write_text(MODEL)
    (tmp_path / "checked.toml").write_text(CONFIG)

    ended = run(tmp_path, "--config", "checked.toml", "--json", "found.json")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "PASS" in ended.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["name"]: (row["status"], row["found"]) for row in found["rows"]}
    assert rows["ranks"] == ("pass", "2 of 2 have met, on 1 host")
    assert {rows[name][0] for name in ("allreduce", "step float32", "step float32-keras", "cost")} == {"pass"}
    # A machine that is busy with other things reads slowly for a moment.
    assert rows["input"][0] in ("pass", "warning")
    # The ranks ended by it, and were started again: what came after it was measured.
    status, reason = rows["step float32-xla"]
    assert status == "warning"
    assert "PyFunc" in reason
    assert set(found["facts"]["programs"]) == {"float32", "float32-keras"}
    assert [phase["local_batch_size"] for phase in found["facts"]["programs"]["float32"]["phases"]] == [2, 8]
    assert {rows[name][0] for name in ("GPUs", "link", "peak memory")} == {"skipped"}
    assert not list((tmp_path / "runs").glob("gpu-check-*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--config", "nowhere.toml"), "nowhere.toml"),
        (("--minutes", "0"), "not a number above 0"),
        (("--site-set", "ranks_per_node=3", "--config", "checked.toml"), "does not split evenly over 3 ranks"),
        (("--json", "nowhere/found.json"), "is not a folder"),
        (("--json", "."), "that is a folder; name a file in it"),
    ],
)
def test_bad_input_is_one_error_before_any_rank_is_started(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "checked_models.py").write_text(MODEL)
    (tmp_path / "checked.toml").write_text(CONFIG)

    ended = run(tmp_path, *options)

    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = (sys.executable, str(REPOSITORY / "study/gpu_check.py"))
    return subprocess.run((*program, *options), cwd=folder, capture_output=True, text=True)
