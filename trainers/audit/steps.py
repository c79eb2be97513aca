"""The steps that are audited: those of every bundled model, in every precision, with every bundled optimizer.

They are traced as the ranks trace them, and never run. Left out are the sum over the ranks, whose operation is
Horovod's own, and what XLA compiles for itself with `jit`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from PIL import Image

from storage.protocol.records import ComponentSpec, Precision, TrialSpec
from trainers import components
from trainers.audit.graph import Node, nodes_of
from trainers.bigearthnet import Version
from trainers.bigearthnet.bands import BAND_SETS, SHARD_FORMAT
from trainers.bigearthnet.prepared import Manifest
from trainers.checkpoint import TrainingState
from trainers.datasets import Dataset
from trainers.datasets.bigearthnet import BigEarthNet
from trainers.faults import SpecError, values_are_of_the_spec
from trainers.step import compile_calibrate_step, compile_evaluate_step, compile_train_step
from trainers.tasks import build_task
from trainers.train import build_state

MODELS = (
    ComponentSpec("efficientnet_b0"),
    ComponentSpec("small_resnet", {"dropout_rate": 0.2}),
    ComponentSpec("small_resnet", {"normalisation": "none"}),
)
OPTIMIZERS = (
    ComponentSpec("sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}),
    ComponentSpec("sgd", {"learning_rate": 0.1}),
    ComponentSpec("adamw", {"learning_rate": 1e-3}),
)
# tf32 is a way in which kernels compute, not one in which graphs are built.
PRECISIONS = {Precision.FLOAT32: (Precision.FLOAT32, Precision.TF32), Precision.BFLOAT16: (Precision.BFLOAT16,)}
"""Precisions with one graph, by the one that it is traced in."""

_LOSS_OPTIONS = {"label_smoothing": 0.1, "focal_gamma": 2.0}
_SIDE, _LARGEST_SHIFT = 32, 4


@dataclass(frozen=True)
class Step:
    """A traced step."""

    name: str
    """What it is for, and what it is built of."""
    layers: frozenset[str]
    """The names of the model's layers."""
    nodes: tuple[Node, ...]


def trace_all(models: Sequence[ComponentSpec]) -> Iterator[Step]:
    """The steps of each model on the paper's data, and those of a bundled one on images with the other task.

    Raises:
        SpecError: A model cannot be built like this, or not be trained.
    """
    for model in models:
        for precision in PRECISIONS:
            yield from trace_model(model, precision, big_earth_net(), "multi_label")
        yield from trace_updates(model, big_earth_net())
    with tempfile.TemporaryDirectory(prefix="switchyard-audit-") as folder:
        dataset = image_folder(Path(folder))
        for precision in PRECISIONS:
            yield from trace_model(MODELS[-1], precision, dataset, "single_label", in_parts=False)


def trace_model(
    model: ComponentSpec, precision: Precision, dataset: Dataset, task_name: str, *, in_parts: bool = True
) -> Iterator[Step]:
    """The step that trains, with the first of the optimizers, and those that evaluate and calibrate.

    Args:
        in_parts: Whether an update is computed part by part, as with accumulation_steps.

    Raises:
        SpecError: The model cannot be built like this, or not be trained.
    """
    class_count = len(dataset.class_names)
    spec = _spec(model, precision, ComponentSpec(task_name, {**_LOSS_OPTIONS, "class_weights": [2.0] * class_count}))
    state, task = _build_state(spec, dataset), build_task(spec, class_count)
    seed = tf.Variable([0, 0], trainable=False, dtype=tf.int64)
    part_size = tf.Variable(1, trainable=False, dtype=tf.int32) if in_parts else None
    train = compile_train_step(state.model, state.optimizer, dataset, task, _OneRank(), seed, part_size)
    built_of = f"{_named(model)}, {'/'.join(PRECISIONS.get(precision, (precision,)))}, {type(dataset).__name__}"
    yield _traced(f"train {built_of}, {task_name}, {_named(spec.optimizer)}", state.model, train)
    yield _traced(f"evaluate {built_of}, {task_name}", state.model, compile_evaluate_step(state.model, dataset, task))
    yield _traced(f"calibrate {built_of}", state.model, compile_calibrate_step(state.model, dataset))


def trace_updates(model: ComponentSpec, dataset: Dataset) -> Iterator[Step]:
    """The update by each of the other optimizers. Variables and gradients are float32 in any precision.

    Raises:
        SpecError: The model or an optimizer cannot be built like this.
    """
    spec = _spec(model, Precision.FLOAT32, ComponentSpec("multi_label"))
    built = _build_state(spec, dataset).model
    for optimizer in OPTIMIZERS[1:]:
        yield _traced(f"update {_named(model)}, {_named(optimizer)}", built, _compile_update(built, optimizer))


def _build_state(spec: TrialSpec, dataset: Dataset) -> TrainingState:
    # Names of layers are counted from the beginning.
    keras.backend.clear_session()
    return build_state(spec, dataset)


def _compile_update(model: keras.Model, spec: ComponentSpec) -> Any:
    variables = model.trainable_variables
    with values_are_of_the_spec():
        optimizer = components.build("optimizers", spec, model)
        optimizer.build(variables)

    @tf.function(input_signature=[[tf.TensorSpec(variable.shape, tf.float32) for variable in variables]])
    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(gradients, variables)

    return update


def _traced(name: str, model: keras.Model, function: Any) -> Step:
    """Args: function: A tf.function with an input signature."""
    try:
        graph = function.get_concrete_function().graph
    except (ValueError, TypeError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines()]
        # TensorFlow puts a trace of the step around it.
        cause = next((line for line in reversed(lines) if "Error: " in line), lines[-1])
        raise SpecError(f"{name} cannot be traced: {cause}") from error
    return Step(name, frozenset(layer.name for layer in model._flatten_layers()), tuple(nodes_of(graph)))


def big_earth_net() -> BigEarthNet:
    """The paper's data set, of which no patch need be there to trace what is done to one."""
    manifest = Manifest(
        shard_format=SHARD_FORMAT,
        archive_version=Version.V1,
        software={},
        lists_sha256={},
        limit=None,
        has_official_sizes=False,
        dropped={},
        bad_patches=0,
        splits={},
    )
    return BigEarthNet(Path(), manifest, BAND_SETS["all"], "bilinear", True, 1, None)


def image_folder(folder: Path) -> Dataset:
    """Two black images, turned and shifted."""
    for split in ("train", "val"):
        Image.new("RGB", (_SIDE, _SIDE)).save(folder / f"{split}.png")
    (folder / "labels.csv").write_text("image,split,land,water\ntrain.png,train,1,0\nval.png,val,0,1\n")
    options = {"path": str(folder), "augment": True, "shift": _LARGEST_SHIFT}
    dataset: Dataset = components.build("datasets", ComponentSpec("image_folder", options), folder / "cache")
    return dataset


def _named(component: ComponentSpec) -> str:
    options = ", ".join(f"{name}={value}" for name, value in component.options.items() if name != "learning_rate")
    return f"{component.name}({options})" if options else component.name


def _spec(model: ComponentSpec, precision: Precision, task: ComponentSpec) -> TrialSpec:
    return TrialSpec(
        study_name="audit",
        trial_number=0,
        seed=0,
        epochs=1,
        world_size=1,
        loader_batch_size=1,
        cache_dir="",
        model=model,
        # Handed over as it is.
        dataset=ComponentSpec(""),
        task=task,
        optimizer=OPTIMIZERS[0],
        batch_policy=ComponentSpec("constant"),
        precision=precision,
    )


class _OneRank:
    """What a step needs of a communicator. A rank's gradients are its own mean."""

    def average_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.identity(gradient) for gradient in gradients]
