from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score

from trainers.bigearthnet.bands import STATISTICS
from trainers.components import ComponentError
from trainers.datasets import ArraySource, Split, synthetic_bigearthnet


@pytest.fixture(scope="module")
def train() -> ArraySource:
    return open_split(Split.TRAIN)


def test_the_patches_depend_on_the_options_alone(train):
    again = open_split(Split.TRAIN)

    np.testing.assert_array_equal(again.samples, train.samples)
    np.testing.assert_array_equal(again.labels, train.labels)


def test_a_longer_split_begins_with_the_shorter_one(train):
    shorter = open_split(Split.TRAIN, train=100)

    np.testing.assert_array_equal(shorter.samples, train.samples[:100])
    np.testing.assert_array_equal(shorter.labels, train.labels[:100])


def test_another_seed_gives_other_patches(train):
    other = open_split(Split.TRAIN, train=100, seed=1)

    assert (other.samples != train.samples[:100]).mean() > 0.9
    assert (other.labels != train.labels[:100]).any()


def test_a_patch_has_one_to_five_labels_and_three_on_average(train):
    labels_per_patch = train.labels.sum(axis=1)

    assert set(labels_per_patch) == {1, 2, 3, 4, 5}
    assert 2.7 < labels_per_patch.mean() < 3.2


def test_the_classes_are_unbalanced_but_even_a_small_validation_split_has_them_all(train):
    frequencies = train.labels.mean(axis=0)

    assert frequencies.max() > 10 * frequencies.min()
    assert open_split(Split.VAL, val=512).labels.any(axis=0).all()


def test_the_digital_numbers_are_about_those_of_bigearthnet(train):
    mean, std = np.array(list(STATISTICS.values())).T

    # Clouds, which widen the real distribution, are not generated.
    assert (abs(train.samples.mean(axis=(0, 1, 2)) - mean) < 0.5 * std).all()
    assert (train.samples.std(axis=(0, 1, 2)) > 0.25 * std).all()
    assert (train.samples.std(axis=(0, 1, 2)) < 1.25 * std).all()


def test_there_are_the_bands_and_classes_of_bigearthnet_19():
    dataset = synthetic_bigearthnet.build("unused")

    assert " ".join(STATISTICS) == "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
    assert dataset.input_shape[2] == len(STATISTICS)
    assert len(dataset.class_names) == 19
    assert dataset.class_names[0] == "Urban fabric"
    assert dataset.class_names[-1] == "Marine waters"


@pytest.mark.parametrize("size", [8, 33, 120])
def test_patches_come_in_any_size_up_to_that_of_bigearthnet(size):
    val = open_split(Split.VAL, val=3, size=size)

    assert val.samples.shape == (3, size, size, 12)


def test_the_labels_can_be_learned_but_not_completely(train):
    val = open_split(Split.VAL, val=512)
    forest = RandomForestClassifier(100, min_samples_leaf=2, random_state=0).fit(spectra(train), train.labels)

    learned = f1_score(val.labels, forest.predict(spectra(val)), average="micro")

    assert best_constant_f1(val.labels) + 0.1 < learned < 0.9


def test_noise_makes_it_harder():
    def score(noise: float) -> float:
        train, val = (open_split(split, train=512, val=256, noise=noise) for split in (Split.TRAIN, Split.VAL))
        forest = RandomForestClassifier(30, random_state=0).fit(spectra(train), train.labels)
        return f1_score(val.labels, forest.predict(spectra(val)), average="micro")

    assert score(noise=0) > score(noise=4) + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "train=0; it must be an integer of 1 or more"),
        ({"val": 0}, "val=0; it must be an integer of 1 or more"),
        ({"test": -1}, "test=-1; it must be an integer of 0 or more"),
        ({"train": 10.5}, "train=10.5; it must be an integer"),
        ({"size": 7}, "size=7; it must be from 8 to 120"),
        ({"size": 121}, "size=121; it must be from 8 to 120"),
        ({"seed": -1}, "seed=-1; it must be an integer of 0 or more"),
        ({"noise": -0.1}, "noise=-0.1; it must be from 0 to 10"),
        ({"noise": float("nan")}, "noise=nan; it must be from 0 to 10"),
    ],
)
def test_an_impossible_option_is_refused_with_the_rule(options, message):
    with pytest.raises(ComponentError, match=message):
        synthetic_bigearthnet.build("unused", **options)


def open_split(split: Split, **options) -> ArraySource:
    return synthetic_bigearthnet.build("unused", **({"train": 1024, "size": 16} | options)).open(split)


def spectra(source: ArraySource) -> np.ndarray:
    """Of each band the least, the middle, the mean and the largest value in the patch."""
    pixels = source.samples.reshape(len(source), -1, source.samples.shape[-1])
    return np.concatenate(
        [np.quantile(pixels, [0.02, 0.5, 0.98], axis=1).swapaxes(0, 1).reshape(len(source), -1), pixels.mean(axis=1)],
        axis=1,
    )


def best_constant_f1(labels: np.ndarray) -> float:
    """F1 micro of always predicting the k most frequent classes, for the best k."""
    most_frequent = np.argsort(-labels.mean(axis=0))
    predictions = [np.isin(np.arange(labels.shape[1]), most_frequent[:k]) for k in range(1, labels.shape[1] + 1)]
    return max(f1_score(labels, np.broadcast_to(p, labels.shape), average="micro") for p in predictions)
