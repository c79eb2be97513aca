"""The audit of kernels says where a step would leave the GPU, and what of it is new in the host's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from storage.protocol.records import ComponentSpec, Precision
from study.catalog import component_names
from trainers.audit.graph import Node, Output
from trainers.audit.host_memory import Reason, reason_for
from trainers.audit.kernels import Kernel, Operation, find_kernel, registered_kernels
from trainers.audit.steps import MODELS, OPTIMIZERS, PRECISIONS, Step, big_earth_net, image_folder, trace_model
from trainers.audit.table import operations_table, steps_table, waits_table
from trainers.audit.verdict import audit

ROOT = Path(__file__).parents[2]
TINY = ComponentSpec("small_resnet", {"width": 4, "blocks": [1], "dropout_rate": 0.2})

FLOAT32 = frozenset({"float32"})
MATMUL = Operation("MatMul", (("T", ("float32",)),))
SHAPES = Operation("AddV2", (("T", ("int32",)),))


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """Those of a small model on the paper's data, in bfloat16."""
    return list(trace_model(TINY, Precision.BFLOAT16, big_earth_net(), "multi_label"))


def with_bands_compressed(input_shape: tuple[int, int, int], class_count: int) -> keras.Model:
    """A model with something that TensorFlow computes in bfloat16 on no CPU."""
    images = keras.Input(input_shape)
    features = keras.layers.Conv2D(4, 8, 8, name="stem")(images)
    features = keras.layers.Lambda(tf.math.lgamma, name="gamma_correction")(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(images, keras.layers.Dense(class_count, dtype="float32")(features))


def test_a_step_is_found_with_all_that_runs_inside_of_its_loops(steps):
    train = steps[0]
    found = {node.operation.name for node in train.nodes}

    assert found >= {"Conv2D", "Conv2DBackpropFilter", "FusedBatchNormGradV3", "ResourceApplyKerasMomentum", "While"}
    assert {node.layer(train.layers) for node in train.nodes if node.operation.name == "FusedBatchNormV3"} == {
        layer for layer in train.layers if layer.startswith("batch_normalization")
    }


def test_no_gradient_has_the_host_wait_for_a_shape_that_the_gpu_puts_together(steps, tmp_path):
    single_label = next(trace_model(TINY, Precision.FLOAT32, image_folder(tmp_path), "single_label"))

    for train in (steps[0], single_label):
        assert "DynamicStitch" not in {node.operation.name for node in train.nodes}


def test_this_processor_has_a_kernel_for_all_that_the_tests_train_on_it(steps):
    audited = audit(steps, device="CPU")

    assert audited.findings == []
    assert len(audited.places) > 100
    assert [audited.unexpected_in(step) for step in steps] == [0, 0, 0]


def test_an_operation_without_a_kernel_of_its_type_is_named_with_its_layer():
    model = ComponentSpec(f"{__name__}:{with_bands_compressed.__name__}")
    in_float32, in_bfloat16 = (
        audit(trace_model(model, precision, big_earth_net(), "multi_label"), device="CPU")
        for precision in (Precision.FLOAT32, Precision.BFLOAT16)
    )

    assert in_float32.findings == []
    assert any(
        finding.startswith("Lgamma(T=bfloat16) has no kernel") and "layer 'gamma_correction'" in finding
        for finding in in_bfloat16.findings
    ), in_bfloat16.findings
    assert in_bfloat16.unexpected_in(in_bfloat16.steps[0]) > 0


def test_a_processor_that_lacks_everything_is_told_apart(steps):
    assert len(audit(steps, kernels_of=lambda name: ()).findings) > 100


@pytest.mark.parametrize(
    ("kernels", "chosen"),
    [
        ([Kernel("CPU"), Kernel("GPU", {"T": FLOAT32})], 1),
        ([Kernel("CPU"), Kernel("GPU", {"T": frozenset({"bfloat16"})})], None),
        ([Kernel("GPU", {"Tidx": FLOAT32})], None),
        ([Kernel("DEFAULT"), Kernel("GPU")], 1),
        ([Kernel("DEFAULT"), Kernel("GPU", {"T": frozenset({"bfloat16"})})], 0),
        ([Kernel("GPU", label="eigen"), Kernel("XLA_GPU_JIT")], None),
        ([Kernel("GPU"), Kernel("GPU", priority=1), Kernel("GPU", label="eigen", priority=2)], 1),
    ],
    ids=["type", "other type", "attribute missing", "own before any", "any device", "label and XLA", "priority"],
)
def test_a_kernel_is_chosen_by_device_types_label_and_priority(kernels, chosen):
    assert find_kernel(MATMUL, kernels) == (None if chosen is None else kernels[chosen])


def test_of_a_list_of_types_each_must_be_allowed():
    operation = Operation("IdentityN", (("T", ("float32", "string")),))

    assert find_kernel(operation, [Kernel("GPU", {"T": FLOAT32})]) is None
    assert find_kernel(operation, [Kernel("GPU", {"T": frozenset({"float32", "string", "bool"})})]) is not None


@pytest.mark.parametrize(
    ("operation", "host_arguments", "reason"),
    [
        (MATMUL, (), Reason.NONE),
        (SHAPES, ("x", "y", "z"), Reason.INTEGERS),
        (Operation("AddV2", (("T", ("float32",)),)), ("x", "y", "z"), None),
        (Operation("Reshape", (("T", ("float32",)), ("Tshape", ("int32",)))), ("shape",), Reason.LAUNCH),
        (Operation("Reshape", (("T", ("float32",)), ("Tshape", ("int32",)))), ("tensor", "shape", "output"), None),
        (Operation("Unique", (("T", ("int32",)),)), ("x", "y"), None),
    ],
    ids=["nothing", "shapes", "a tensor", "a shape", "what is reshaped", "an operation that is not listed"],
)
def test_what_may_be_in_the_hosts_memory_is_listed(operation, host_arguments, reason):
    assert reason_for(operation, Kernel("GPU", host_arguments=host_arguments)) is reason


def test_something_new_in_the_hosts_memory_is_refused():
    step = Step("train", frozenset({"dense"}), (Node(MATMUL, "while/net/dense_1/MatMul"), Node(SHAPES, "while/add")))
    kernels = {
        "MatMul": [Kernel("GPU", host_arguments=("b",))],
        "AddV2": [Kernel("GPU", host_arguments=("x", "y", "z"))],
    }

    audited = audit([step], kernels_of=kernels.__getitem__)

    [finding] = audited.findings
    assert finding.startswith("MatMul(T=float32) has b in the host's memory, which is not on the list")
    assert "In train: layer 'dense' (while/net/dense_1/MatMul)." in finding
    assert audited.unexpected_in(step) == 1


def test_where_the_host_needs_what_the_gpu_computes_it_waits():
    """The size of an array is computed on the GPU in one case, and on the host in the other."""
    fill = Operation("Fill", (("T", ("float32",)), ("index_type", ("int32",))))
    kernels = {
        "Prod": [Kernel("GPU", host_arguments=("reduction_indices",))],
        "Shape": [Kernel("GPU", host_arguments=("output",))],
        "Fill": [Kernel("GPU", host_arguments=("dims",))],
    }

    def step_with(source: str) -> Step:
        return Step("train", frozenset(), (Node(fill, "while/fill", (("dims", Output(Operation(source), "output")),)),))

    audited = audit([step_with("Prod"), step_with("Shape")], kernels_of=kernels.__getitem__)

    assert list(map(audited.waits_in, audited.steps)) == [1, 0]
    assert waits_table(audited).row_count == 1
    [wait] = audited.waits
    assert (wait.source.operation.name, wait.operation, wait.argument) == ("Prod", fill, "dims")


def test_an_operation_knows_what_it_takes_from_the_arguments_of_its_loop_and_from_others(steps):
    nodes = {node.path: node for node in steps[0].nodes}
    convolution = next(node for path, node in nodes.items() if path.endswith("/conv2d_1/convolution"))

    (images_name, images), (filter_name, filters) = convolution.inputs
    assert (images_name, filter_name) == ("input", "filter")
    assert (images.operation.name, images.name) == (filters.operation.name, filters.name) == ("Cast", "y")
    read = next(
        node for node in nodes.values() if node.operation.name == "ReadVariableOp" and "/conv2d_1/" in node.path
    )
    assert read.inputs == (("resource", Output(Operation("_Arg", (("T", ("resource",)),)), "output")),)


def test_float32_and_tf32_have_one_graph(tmp_path):
    dataset = image_folder(tmp_path)
    # In whichever order a graph lists its functions.
    graphs = [
        [Counter(step.nodes) for step in trace_model(TINY, precision, dataset, "single_label")]
        for precision in (Precision.FLOAT32, Precision.TF32)
    ]

    assert graphs[0] == graphs[1]


def test_every_bundled_model_and_optimizer_is_audited_in_every_precision():
    assert {model.name for model in MODELS} == set(component_names("model"))
    assert {optimizer.name for optimizer in OPTIMIZERS} == set(component_names("optimizer"))
    assert {precision for alike in PRECISIONS.values() for precision in alike} == set(Precision)


@pytest.mark.parametrize(
    ("json_file", "words"),
    [("nowhere/audit.json", "nowhere is not a folder"), (".", ". is a folder; name a file in it")],
)
def test_a_place_for_the_json_that_cannot_be_is_one_error_before_anything_is_traced(json_file, words):
    command = (sys.executable, "-m", "trainers.audit", "--json", json_file)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --json: {words}")


def test_tables_and_json_say_where_each_operation_is(steps):
    audited = audit(steps, device="CPU")

    written = json.loads(json.dumps(audited.to_json()))
    [convolution] = [each for each in written["operations"] if each["operation"] == "Conv2DBackpropFilter"]
    assert convolution["types"] == {"T": ["bfloat16"]}
    assert convolution["device"] == "CPU"
    assert list(convolution["steps"]) == [steps[0].name]
    assert steps_table(audited).row_count == len(steps)
    assert operations_table(audited).row_count >= len({node.operation.name for step in steps for node in step.nodes})


@pytest.mark.skipif(
    any(kernel.device == "GPU" for kernel in registered_kernels("MatMul")), reason="this TensorFlow is built for GPUs"
)
def test_a_tensorflow_without_kernels_for_gpus_is_told_from_a_model_without():
    command = (sys.executable, "-m", "trainers.audit")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr.startswith("error: this TensorFlow 2.20.0 (")
    assert done.stderr.endswith("has no kernels for GPUs; `make audit` sets up one that has, and needs no GPU.\n")
