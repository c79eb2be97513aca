"""What the trainer asks of every data set. The data sets are found by themselves, as the driver finds them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.protocol.records import ComponentSpec
from study.catalog import component_names
from tests.contracts import subjects
from tests.contracts.dataset_examples import EXAMPLES
from trainers import components
from trainers.components import ComponentError
from trainers.datasets import AugmentedDataset, Dataset, SampleSource, Split, read_samples
from trainers.loader import evaluation_order_of, training_order_of

REPOSITORY = Path(__file__).resolve().parents[2]

# One that divides the examples' sizes, and others that do not.
WORLD_SIZES = (1, 2, 3, 5)


@dataclass(frozen=True)
class Example:
    name: str
    options: dict[str, Any]
    cache_dir: Path

    def build(self, cache_dir: Path | None = None) -> Dataset:
        return components.build("datasets", ComponentSpec(self.name, self.options), cache_dir or self.cache_dir)


def own_example(folder: Path) -> dict[str, Any]:
    """Of somebody's own data set, whose files are there."""
    (name,) = subjects.names("dataset")
    return subjects.options_of(name)


CASES = [
    (name, write_example)
    for name in subjects.names("dataset")
    for write_example in ([own_example] if subjects.is_own(name) else EXAMPLES.get(name, []))
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[1].__name__)
def example(request, tmp_path_factory) -> Example:
    name, write_example = request.param
    options = write_example(tmp_path_factory.mktemp("input"))
    return Example(name, options, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def dataset(example) -> Dataset:
    return example.build()


@pytest.mark.parametrize("name", subjects.names("dataset"))
def test_every_data_set_has_an_example(name):
    assert EXAMPLES.get(name) or subjects.is_own(name), (
        f"nothing is known of {name!r}; add an example to tests/contracts/dataset_examples.py"
    )


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


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_an_epoch_trains_on_equally_many_samples_per_rank_and_on_none_twice(dataset, world_size):
    source = dataset.open(Split.TRAIN)

    for epoch in range(3):
        orders = [training_order_of(source, 7, epoch, rank, world_size) for rank in range(world_size)]

        # A rank with one more would wait for ever for the others' part of its last update.
        assert [order.shape for order in orders] == [(len(source) // world_size,)] * world_size
        assert {order.dtype for order in orders} == {np.dtype(np.int64)}
        together = np.concatenate(orders).tolist()
        assert len(set(together)) == len(together)
        assert set(together) <= set(range(len(source)))


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch_alone(example, dataset):
    def orders(source: SampleSource, seed: int, epochs: Iterable[int]) -> dict[int, tuple[int, ...]]:
        return {epoch: tuple(training_order_of(source, seed, epoch, 1, 2).tolist()) for epoch in epochs}

    source = dataset.open(Split.TRAIN)
    expected = orders(source, 7, range(5))
    read_samples(source, np.array([0, 1]))

    # What a resumed rank asks for: another process, another epoch first.
    resumed = example.build().open(Split.TRAIN)
    assert orders(resumed, 7, reversed(range(5))) == expected
    assert orders(source, 7, range(5)) == expected
    assert len(set(expected.values())) > 1
    assert orders(source, 8, range(5)) != expected


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("split", [Split.VAL, Split.TEST])
def test_over_all_ranks_every_sample_is_evaluated_once(dataset, split, world_size):
    source = dataset.open(split)

    orders = [evaluation_order_of(source, rank, world_size) for rank in range(world_size)]

    assert sorted(np.concatenate(orders).tolist()) == list(range(len(source)))
    assert max(map(len, orders)) - min(map(len, orders)) <= 1


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


def test_augmented_images_are_a_function_of_the_seed_and_as_the_model_expects_them(example, dataset):
    import tensorflow as tf

    if not isinstance(dataset, AugmentedDataset):
        assert "augment" not in example.options
        return
    other = example.build()
    assert isinstance(other, AugmentedDataset)
    images = dataset.to_model_input(tf.constant(read_all(dataset, Split.TRAIN)[0]))
    seeds = [tf.constant([3, number], tf.int64) for number in range(4)]

    tf.random.set_seed(0)
    augmented = [dataset.augment(images, seed).numpy() for seed in seeds]
    tf.random.set_seed(1)
    compiled = tf.function(other.augment)
    again = [compiled(images, seed) for seed in reversed(seeds)][::-1]

    for actual, expected in zip(again, augmented, strict=True):
        assert actual.dtype == tf.float32
        assert actual.shape == images.shape
        np.testing.assert_array_equal(actual, expected)
    changes = len({one.tobytes() for one in augmented})
    assert changes == (len(seeds) if example.options.get("augment") else 1)


def test_an_unknown_option_is_refused(example):
    spec = ComponentSpec(example.name, {**example.options, "no_such_option": 1})

    with pytest.raises(ComponentError, match="no_such_option"):
        components.build("datasets", spec, example.cache_dir)


def test_a_config_can_be_checked_without_tensorflow(example, tmp_path):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from storage.protocol.records import ComponentSpec\n"
        "from trainers import components\n"
        f"spec = ComponentSpec({example.name!r}, {example.options!r})\n"
        f"components.build('datasets', spec, Path({str(tmp_path)!r})).sizes()\n"
        "sys.exit('tensorflow' in sys.modules)"
    )

    answer = subprocess.run((sys.executable, "-c", program), cwd=REPOSITORY, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr or "TensorFlow was imported"


def read_all(dataset: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
    source = dataset.open(split)
    return read_samples(source, np.arange(len(source)))
