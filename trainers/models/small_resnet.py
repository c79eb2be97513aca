"""A small residual network that a CPU trains in seconds: 80,000 weights at its defaults.

A strided stem, then stages of residual blocks, each stage half as large and twice as wide as the one before, then the
mean and the maximum of each feature: a land cover in a corner of the image is a label too, and the mean hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import keras
from keras import layers

from trainers.components import ComponentError


class Normalisation(StrEnum):
    BATCH = "batch"
    NONE = "none"


def build(
    input_shape: tuple[int, int, int],
    class_count: int,
    *,
    width: int = 16,
    blocks: Sequence[int] = (1, 1, 1),
    stem_stride: int = 2,
    normalisation: str = "batch",
    batch_norm_momentum: float = 0.9,
    dropout_rate: float = 0.0,
) -> keras.Model:
    """A residual network from images to logits.

    Args:
        width: Filters of the stem and of the first stage.
        blocks: Residual blocks of each stage.
        stem_stride: Of the stem: the first stage has 1 / stem_stride of the image's resolution.
        normalisation: "batch", or "none": then N ranks with b samples each make the same update as one rank with N b.
        batch_norm_momentum: Share of the old moving statistics that one update keeps. Lower than Keras' 0.99, because
            short trials with large batches make only tens of updates.
        dropout_rate: Share of the pooled features that training leaves out.

    Raises:
        ComponentError: An option is out of its range.
    """
    if not isinstance(width, int) or width < 1:
        raise ComponentError(f"small_resnet: width={width!r}; it must be an integer of 1 or more.")
    if not isinstance(blocks, list | tuple) or not blocks or any(not isinstance(n, int) or n < 1 for n in blocks):
        raise ComponentError(f"small_resnet: blocks={blocks!r}; it must list the blocks of each stage, as [1, 1, 1].")
    if not 1 <= stem_stride <= min(input_shape[:2]):
        raise ComponentError(
            f"small_resnet: stem_stride={stem_stride!r}; it must be between 1 and the image's side, "
            f"{min(input_shape[:2])}."
        )
    if normalisation not in list(Normalisation):
        raise ComponentError(f"small_resnet: normalisation={normalisation!r}; it must be {' or '.join(Normalisation)}.")
    if not 0 <= batch_norm_momentum < 1:
        raise ComponentError(f"small_resnet: batch_norm_momentum={batch_norm_momentum}; it must be in [0, 1).")
    if not 0 <= dropout_rate < 1:
        raise ComponentError(f"small_resnet: dropout_rate={dropout_rate}; it must be in [0, 1).")

    unit = _ConvolutionUnit(Normalisation(normalisation), batch_norm_momentum)
    images = keras.Input(input_shape, name="images")
    # Half the resolution before the first block: three quarters of the time are saved there.
    features = layers.ReLU()(unit(images, width, kernel=max(3, stem_stride + 1), stride=stem_stride))
    for stage, block_count in enumerate(blocks):
        for block in range(block_count):
            features = _residual_block(features, unit, width << stage, stride=2 if stage > 0 and block == 0 else 1)
    pooled = layers.Concatenate()([layers.GlobalAveragePooling2D()(features), layers.GlobalMaxPooling2D()(features)])
    pooled = layers.Dropout(dropout_rate)(unit.normalise(pooled))
    logits = layers.Dense(class_count, name="logits", dtype="float32")(pooled)
    return keras.Model(images, logits, name="small_resnet")


@dataclass(frozen=True)
class _ConvolutionUnit:
    """A convolution with its normalisation; without one, with a bias instead."""

    normalisation: Normalisation
    batch_norm_momentum: float

    def __call__(
        self,
        features: keras.KerasTensor,
        filters: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        starts_at_zero: bool = False,
    ) -> keras.KerasTensor:
        normalises = self.normalisation is Normalisation.BATCH
        convolution = layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="same",
            use_bias=not normalises,
            kernel_initializer="zeros" if starts_at_zero and not normalises else "he_normal",
        )
        return self.normalise(convolution(features), starts_at_zero=starts_at_zero)

    def normalise(self, features: keras.KerasTensor, *, starts_at_zero: bool = False) -> keras.KerasTensor:
        if self.normalisation is Normalisation.NONE:
            return features
        scale = "zeros" if starts_at_zero else "ones"
        return layers.BatchNormalization(momentum=self.batch_norm_momentum, gamma_initializer=scale)(features)


def _residual_block(
    features: keras.KerasTensor, unit: _ConvolutionUnit, filters: int, stride: int
) -> keras.KerasTensor:
    shortcut = features
    if stride > 1 or features.shape[-1] != filters:
        # Not a stride of the convolution, which is the same but for few channels corrupts memory: docs/adr/0006.
        shortcut = unit(features[:, ::stride, ::stride, :] if stride > 1 else features, filters, kernel=1)
    branch = layers.ReLU()(unit(features, filters, stride=stride))
    # Every block starts as its shortcut alone, which keeps high learning rates stable, normalised or not
    # (Goyal et al. 2017, arXiv:1706.02677, section 5.1; Zhang et al. 2019, arXiv:1901.09321).
    branch = unit(branch, filters, starts_at_zero=True)
    return layers.ReLU()(layers.Add()([shortcut, branch]))
