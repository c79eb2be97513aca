"""Data sets. `build(cache_dir, *, options...)` gives a `Dataset`; it checks its input and is quick.

The loader hands over integers as they are stored; conversion to float and standardisation happen on the device, in
`Dataset.to_model_input`. Nothing here imports TensorFlow when it is imported, so a config's data set can be checked
without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tensorflow as tf


class DatasetError(ValueError):
    """A data set is not there, or not as it should be. The message says what to do."""


class Split(StrEnum):
    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class SampleSource(Protocol):
    """The samples of one split, read in any order."""

    def __len__(self) -> int: ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The data set's."""
        ...

    @property
    def sample_dtype(self) -> np.dtype: ...

    def read(self, indices: NDArray[np.int64], out: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Write samples as they are stored into out, [n, *sample_shape]; gives labels uint8 [n, classes] of 0 and 1."""
        ...


@runtime_checkable
class OrderedSource(SampleSource, Protocol):
    """Samples that say themselves in which order they are best read; others are read in any."""

    def training_order(self, seed: int, epoch: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """Indices that one rank trains on in one epoch: int64 [samples // world_size], a function of nothing else.

        No index comes twice in an epoch, over all ranks.
        """
        ...

    def evaluation_order(self, rank: int, world_size: int) -> NDArray[np.int64]:
        """Indices that one rank evaluates: over all ranks every sample once."""
        ...


class Dataset(Protocol):
    """A data set with its splits."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one stored sample, as the loader hands it over."""
        ...

    @property
    def sample_dtype(self) -> np.dtype: ...

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image as the model sees it: (height, width, bands)."""
        ...

    def sizes(self) -> dict[Split, int]:
        """Number of samples per split, found out without decoding any."""
        ...

    def open(self, split: Split) -> SampleSource: ...

    def to_model_input(self, samples: tf.Tensor) -> tf.Tensor:
        """Stored samples [n, *sample_shape] to float32 [n, *input_shape], standardised. Runs on the device.

        Made of keras.ops: of a keras.Input it gives a graph, which an exported model begins with.
        """
        ...


@runtime_checkable
class BandedDataset(Protocol):
    """A data set that knows its bands by name."""

    @property
    def band_names(self) -> tuple[str, ...]:
        """In the order in which the model sees them."""
        ...


@runtime_checkable
class AugmentedDataset(Protocol):
    """A data set that changes its training images at random, on the device."""

    def augment(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """float32 [n, *input_shape] to the same, as a function of the seed, int64 [2], which is new in every update."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Samples that lie in one array, in memory or memory-mapped."""

    samples: NDArray[np.integer]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.samples.shape[1:]

    @property
    def sample_dtype(self) -> np.dtype:
        return self.samples.dtype

    def read(self, indices: NDArray[np.int64], out: NDArray[np.integer]) -> NDArray[np.uint8]:
        # The default mode, which checks the indices as they are used, would write to a copy of out first.
        self.samples.take(indices, axis=0, out=out, mode="clip")
        return self.labels[indices]


def read_samples(source: SampleSource, indices: NDArray[np.int64]) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """Samples [n, *sample_shape] and labels uint8 [n, classes], in memory of their own."""
    samples = np.empty((len(indices), *source.sample_shape), source.sample_dtype)
    return samples, source.read(indices, samples)


def standardise(samples: tf.Tensor, mean: NDArray[np.float32], std: NDArray[np.float32]) -> tf.Tensor:
    """(samples - mean) / std per band, float32: samples are integers [n, height, width, bands]."""
    import keras

    return (keras.ops.cast(samples, "float32") - mean) * (1.0 / std)
