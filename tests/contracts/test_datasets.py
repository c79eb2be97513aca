"""What the trainer asks of every data set. The data sets are found by themselves, as the driver finds them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.records import ComponentSpec
from study.catalog import component_names
from tests.contracts.dataset_examples import EXAMPLES
from trainers import components
from trainers.components import ComponentError
from trainers.datasets import Dataset, Split, read_samples

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Example:
    name: str
    options: dict[str, Any]
    cache_dir: Path

    def build(self, cache_dir: Path | None = None) -> Dataset:
        return components.build("datasets", ComponentSpec(self.name, self.options), cache_dir or self.cache_dir)


@pytest.fixture(scope="module", params=component_names("dataset"))
def example(request, tmp_path_factory) -> Iterator[Example]:
    if request.param not in EXAMPLES:
        pytest.fail(
            f"the data set {request.param!r} has no example, so nothing is known of it; "
            "add one to tests/contracts/dataset_examples.py."
        )
    options = EXAMPLES[request.param](tmp_path_factory.mktemp("input"))
    return Example(request.param, options, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def dataset(example) -> Dataset:
    return example.build()


def test_every_example_is_of_a_data_set_that_exists():
    assert set(EXAMPLES) <= set(component_names("dataset"))


def test_the_classes_have_names_of_their_own(dataset):
    assert isinstance(dataset.class_names, tuple)
    assert all(isinstance(name, str) and name for name in dataset.class_names)
    assert len(set(dataset.class_names)) == len(dataset.class_names) > 0


def test_sizes_are_known_for_every_split_before_anything_is_decoded(example, tmp_path):
    dataset = example.build(tmp_path / "cache")

    sizes = dataset.sizes()

    assert set(sizes) == set(Split)
    assert sizes[Split.TRAIN] >= 3
    assert sizes[Split.VAL] >= 3
    assert not (tmp_path / "cache").exists(), "build() and sizes() are to be quick"


@pytest.mark.parametrize("split", Split)
def test_a_split_holds_as_many_samples_as_it_says(dataset, split):
    assert len(dataset.open(split)) == dataset.sizes()[split]


@pytest.mark.parametrize("split", Split)
def test_samples_and_labels_have_the_shape_and_type_that_the_compiled_step_expects(dataset, split):
    source = dataset.open(split)

    samples, labels = read_samples(source, np.arange(len(source)))

    assert samples.shape == (len(source), *dataset.sample_shape)
    assert samples.dtype == dataset.sample_dtype
    assert np.issubdtype(samples.dtype, np.integer)
    assert labels.shape == (len(source), len(dataset.class_names))
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1}


def test_samples_are_read_in_the_order_that_is_asked_for(dataset):
    source = dataset.open(Split.TRAIN)
    all_samples, all_labels = read_samples(source, np.arange(len(source)))

    samples, labels = read_samples(source, np.array([2, 0, 2, 1]))

    np.testing.assert_array_equal(samples, all_samples[[2, 0, 2, 1]])
    np.testing.assert_array_equal(labels, all_labels[[2, 0, 2, 1]])


def test_nothing_is_read_where_nothing_is_asked_for(dataset):
    samples, labels = read_samples(dataset.open(Split.TRAIN), np.array([], np.int64))

    assert samples.shape == (0, *dataset.sample_shape)
    assert labels.shape == (0, len(dataset.class_names))


def test_what_is_read_is_the_readers_own(dataset):
    source = dataset.open(Split.TRAIN)
    samples, labels = read_samples(source, np.array([0, 1]))

    samples += 1
    labels[:] = 7

    assert (read_samples(source, np.array([0, 1]))[0] != samples).all()
    assert (read_samples(source, np.array([0, 1]))[1] != labels).all()


def test_every_rank_and_every_attempt_reads_the_same(example, dataset, tmp_path):
    with_that_cache, with_its_own_cache = example.build(), example.build(tmp_path)

    for split in Split:
        expected = read_all(dataset, split)
        for other in (with_that_cache, with_its_own_cache):
            for actual, wanted in zip(read_all(other, split), expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)


def test_no_sample_is_in_two_splits(dataset):
    contents = [{sample.tobytes() for sample in read_all(dataset, split)[0]} for split in Split]

    assert len(set.union(*contents)) == sum(len(samples) for samples in contents)


def test_the_model_gets_standardised_images(dataset):
    import tensorflow as tf

    samples, _ = read_all(dataset, Split.TRAIN)

    images = tf.function(dataset.to_model_input)(tf.constant(samples))

    assert images.dtype == tf.float32
    assert images.shape == (len(samples), *dataset.input_shape)
    # Standardised over a whole archive, whose share this example is; raw digital numbers would be far outside.
    assert abs(images.numpy().mean()) < 2
    assert 0.1 < images.numpy().std() < 5


def test_images_do_not_depend_on_the_others_of_their_batch(dataset):
    import tensorflow as tf

    samples, _ = read_all(dataset, Split.TRAIN)

    together = dataset.to_model_input(tf.constant(samples)).numpy()
    alone = dataset.to_model_input(tf.constant(samples[:1])).numpy()

    np.testing.assert_array_equal(together[:1], alone)


def test_an_unknown_option_is_refused(example):
    spec = ComponentSpec(example.name, {**example.options, "no_such_option": 1})

    with pytest.raises(ComponentError, match="no_such_option"):
        components.build("datasets", spec, example.cache_dir)


def test_a_config_can_be_checked_without_tensorflow(example, tmp_path):
    program = (
        "import sys\n"
        f"from trainers.datasets import {example.name}\n"
        f"{example.name}.build({str(tmp_path)!r}, **{example.options!r}).sizes()\n"
        "sys.exit('tensorflow' in sys.modules)"
    )

    answer = subprocess.run((sys.executable, "-c", program), cwd=REPOSITORY, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr or "TensorFlow was imported"


def read_all(dataset: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
    source = dataset.open(split)
    return read_samples(source, np.arange(len(source)))
