from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trainers.augmentation import Augmentation, check_augmentation, shift_at_random, turn_at_random
from trainers.components import ComponentError

SIDE, LARGEST = 7, 3


def seed(number: int) -> tf.Tensor:
    return tf.constant([number, 0], tf.int64)


def image() -> np.ndarray:
    return np.arange(SIDE * SIDE * 2, dtype=np.float32).reshape(SIDE, SIDE, 2)


def images(count: int) -> tf.Tensor:
    return tf.constant(np.stack([image()] * count))


def test_turns_are_all_eight_and_each_image_has_its_own():
    turned = turn_at_random(images(400), seed(1)).numpy()

    square = image()
    possible = [np.rot90(flipped, times).tobytes() for flipped in (square, square[::-1]) for times in range(4)]
    counts = [sum(one.tobytes() == wanted for one in turned) for wanted in possible]
    assert sum(counts) == 400
    assert min(counts) > 20


def test_shifts_are_crops_of_the_mirrored_image_all_alike_likely():
    shifted = shift_at_random(images(3000), seed(1), LARGEST).numpy()

    padded = np.pad(image(), ((LARGEST, LARGEST), (LARGEST, LARGEST), (0, 0)), mode="reflect")
    crops = {
        padded[y : y + SIDE, x : x + SIDE].tobytes(): (y, x)
        for y in range(2 * LARGEST + 1)
        for x in range(2 * LARGEST + 1)
    }
    seen = [crops[one.tobytes()] for one in shifted]
    assert len(crops) == 49
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 49
    assert counts.min() > 20


def test_the_same_seed_gives_the_same_changes_and_another_one_others():
    change = Augmentation(turns=True, shift=2)

    once, again, other = (change(images(8), seed(number)).numpy() for number in (1, 1, 2))

    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_nothing_is_changed_unless_asked_for():
    before = images(3)

    assert Augmentation()(before, seed(1)) is before


def test_a_shift_beyond_the_image_is_refused():
    with pytest.raises(ComponentError, match=r"image_folder: shift=8; it must be at least 0 and below 8"):
        check_augmentation("image_folder", False, 8, 8)
