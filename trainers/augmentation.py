"""Random changes of training images, on the device: each a function of the images and a seed.

For images without an up and a down, as seen from above. Images are float32 [n, height, width, bands] and square where
they are turned; a seed is int64 [2], and the same one gives the same changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.components import ComponentError

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """What is done to each image, independently of the others."""

    turns: bool = False
    """One of the eight flips and quarter turns, all alike likely."""
    shift: int = 0
    """Largest shift, in pixels, along each axis, all alike likely. What comes into the image is its mirror image."""

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if self.shift:
            images = shift_at_random(images, seed, self.shift)
        return turn_at_random(images, seed) if self.turns else images


def check_augmentation(component: str, augment: bool, shift: int, size: int) -> Augmentation:
    """
    Args:
        size: Height and width of the images, the smaller one.

    Raises:
        ComponentError: shift is negative or larger than a mirror image reaches.
    """
    if not 0 <= shift < size:
        raise ComponentError(f"{component}: shift={shift!r}; it must be at least 0 and below {size}, the images' side.")
    return Augmentation(augment, shift)


def turn_at_random(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """One of the eight flips and quarter turns for each image, all alike likely."""
    import tensorflow as tf

    shape = [3, tf.shape(images)[0], 1, 1, 1]
    is_flipped, is_mirrored, is_transposed = tf.unstack(
        tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32) == 1, num=3
    )
    images = tf.where(is_flipped, tf.reverse(images, [1]), images)
    images = tf.where(is_mirrored, tf.reverse(images, [2]), images)
    return tf.where(is_transposed, tf.transpose(images, [0, 2, 1, 3]), images)


def shift_at_random(images: tf.Tensor, seed: tf.Tensor, largest: int) -> tf.Tensor:
    """Each image shifted by -largest to largest pixels along each axis: a random crop of its mirrored surroundings."""
    import tensorflow as tf

    # Not the numbers that turns are drawn with.
    seed = tf.random.experimental.stateless_fold_in(seed, 1)
    count, height, width = tf.unstack(tf.shape(images)[:3])
    shifts = tf.random.stateless_uniform([2, count, 1], seed, -largest, largest + 1, tf.int32)
    images = tf.gather(images, _mirrored(tf.range(height) + shifts[0], height), axis=1, batch_dims=1)
    return tf.gather(images, _mirrored(tf.range(width) + shifts[1], width), axis=2, batch_dims=1)


def _mirrored(indices: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Indices from 1 - size to 2 size - 2, reflected at the first and the last pixel into 0 to size - 1."""
    return size - 1 - abs(size - 1 - abs(indices))
