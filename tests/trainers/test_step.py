"""An update that is computed part by part, or compiled by XLA, is the update."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from storage.protocol.records import ComponentSpec
from tests.trainers.tiny_trial import tiny_spec
from trainers import components
from trainers.datasets import Dataset, Split, read_samples
from trainers.faults import SpecError
from trainers.preflight import check_spec
from trainers.step import compile_train_step
from trainers.tasks import multi_label
from trainers.train import build_state

SPEC = tiny_spec(
    # Of a batch's statistics those of its parts are not the mean.
    model=ComponentSpec("small_resnet", {"width": 4, "blocks": [1], "normalisation": "none"}),
    optimizer=ComponentSpec("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
)
SAMPLES, UPDATES = 32, 2
TASK = multi_label.build(19)


class OneRank:
    def __init__(self) -> None:
        self.reductions = 0

    def average_gradients(self, gradients):
        # Traced: the number of reductions in the graph.
        self.reductions += 1
        return list(gradients)


def trained(tmp_path: Path, part_size: int | None, *, jit: bool = False) -> tuple[float, list[np.ndarray], int]:
    """Loss sum, weights and reductions in the graph after a loader batch of two updates."""
    keras.utils.set_random_seed(1)
    dataset: Dataset = components.build("datasets", SPEC.dataset, tmp_path)
    state, rank = build_state(SPEC, dataset), OneRank()
    parts = None if part_size is None else tf.Variable(part_size)
    seed = tf.Variable([1, 0], dtype=tf.int64)
    step = compile_train_step(state.model, state.optimizer, dataset, TASK, rank, seed, parts, jit=jit)
    samples, labels = map(tf.constant, read_samples(dataset.open(Split.TRAIN), np.arange(SAMPLES)))
    loss = step(samples, labels, tf.constant(SAMPLES // UPDATES), tf.fill([UPDATES], 0.1))
    assert int(state.optimizer.iterations) == UPDATES
    return float(loss), [np.asarray(v) for v in state.model.trainable_variables], rank.reductions


@pytest.mark.parametrize("part_size", [1, 4, 16, 64])
def test_parts_make_the_update_of_the_whole_batch_and_reduce_once(tmp_path, part_size):
    loss, weights, _ = trained(tmp_path, None)
    loss_of_parts, weights_of_parts, reductions = trained(tmp_path, part_size)

    assert reductions == 1
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    for one, other in zip(weights_of_parts, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part_size", [None, 4])
def test_what_xla_compiles_makes_the_same_update(tmp_path, part_size):
    loss, weights, _ = trained(tmp_path, None)
    loss_compiled, weights_compiled, reductions = trained(tmp_path, part_size, jit=True)

    assert reductions == 1
    assert loss_compiled == pytest.approx(loss, rel=1e-5)
    for one, other in zip(weights_compiled, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_parts_that_do_not_divide_a_batch_are_refused_with_a_number_that_does(tmp_path):
    spec = dataclasses.replace(SPEC, cache_dir=str(tmp_path), accumulation_steps=3)

    with pytest.raises(SpecError, match=r"accumulation_steps=3 does not divide the 8 samples .*; use 2\."):
        check_spec(spec)
    check_spec(dataclasses.replace(spec, accumulation_steps=2))
