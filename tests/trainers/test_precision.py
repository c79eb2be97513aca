"""What computes in a lower precision, and what never does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from storage.protocol.records import ComponentSpec, Precision
from study.catalog import component_names
from tests.trainers.tiny_trial import tiny_spec
from trainers import components
from trainers.datasets import Dataset, Split, read_samples
from trainers.precision import set_precision
from trainers.step import compile_train_step
from trainers.tasks import multi_label
from trainers.train import build_state

SPEC = tiny_spec(
    dataset=ComponentSpec("synthetic_bigearthnet", {"train": 64, "val": 4, "size": 32}),
    optimizer=ComponentSpec("sgd", {"learning_rate": 0.05, "momentum": 0.9}),
)


@pytest.fixture(autouse=True)
def default_precision() -> Iterator[None]:
    yield
    set_precision(Precision.FLOAT32)


class OneRank:
    def __init__(self) -> None:
        self.reduced: list[tf.Tensor] = []

    def average_gradients(self, gradients):
        self.reduced = list(gradients)
        return self.reduced


def trained(tmp_path: Path, model: str, precision: Precision, steps: int) -> tuple[list[float], OneRank, keras.Model]:
    """Losses of so many updates on the same samples."""
    spec = dataclasses.replace(SPEC, model=ComponentSpec(model), precision=precision)
    keras.utils.set_random_seed(1)
    dataset: Dataset = components.build("datasets", spec.dataset, tmp_path)
    state, rank = build_state(spec, dataset), OneRank()
    step = compile_train_step(
        state.model, state.optimizer, dataset, multi_label.build(19), rank, tf.Variable([1, 0], dtype=tf.int64)
    )
    samples, labels = map(tf.constant, read_samples(dataset.open(Split.TRAIN), np.arange(16)))
    batch = (samples, labels, tf.constant(16), tf.constant([spec.optimizer.options["learning_rate"]]))
    losses = [float(step(*batch)) / 16 for _ in range(steps)]
    kinds = {op.type: op.outputs[0].dtype for op in _operations(step) if op.type in ("Conv2D", "MatMul")}
    assert kinds["Conv2D"] == (tf.bfloat16 if precision is Precision.BFLOAT16 else tf.float32)
    return losses, rank, state.model


def _operations(step) -> list[tf.Operation]:
    graph = step.get_concrete_function().graph
    bodies = [function.graph for function in graph._functions.values() if hasattr(function, "graph")]
    return [op for each in (graph, *bodies) for op in each.get_operations()]


@pytest.mark.parametrize("model", component_names("model"))
def test_bfloat16_is_for_what_lies_between_variables_and_logits(tmp_path, model):
    losses, rank, built = trained(tmp_path, model, Precision.BFLOAT16, steps=1)

    assert {v.dtype for v in built.trainable_variables} == {"float32"}
    assert "bfloat16" not in {v.dtype for v in built.non_trainable_variables}
    assert {gradient.dtype for gradient in rank.reduced} == {tf.float32}
    assert built.output.dtype == "float32"
    assert np.isfinite(losses).all()


def test_a_model_learns_in_bfloat16_what_it_learns_in_float32(tmp_path):
    exact, _, _ = trained(tmp_path, "small_resnet", Precision.FLOAT32, steps=30)
    rounded, _, _ = trained(tmp_path, "small_resnet", Precision.BFLOAT16, steps=30)

    assert exact[-1] < 0.8 * exact[0]
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, rtol=0.1)


@pytest.mark.parametrize("precision", Precision)
def test_float32_is_float32_on_gpus_too(precision):
    set_precision(precision)

    assert tf.config.experimental.tensor_float_32_execution_enabled() == (precision is Precision.TF32)
