"""What TensorFlow's kernels for CPUs, those of oneDNN, get wrong: docs/adr/0006."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

# Channels that oneDNN puts into one block on a processor with AVX-512; with AVX2 they are eight.
_CHANNELS_PER_BLOCK = 16


def overflowing_convolutions(model: keras.Model) -> list[str]:
    """The names of layers whose gradient oneDNN writes beyond its memory, those of models within the model included.

    They are 1 x 1 convolutions with a stride and less than a block of input channels.

    Source: uxlfoundation/oneDNN#6035.
    """
    from keras import Model, layers

    def overflows(layer: layers.Layer) -> bool:
        return (
            isinstance(layer, layers.Conv2D)
            and set(layer.kernel_size) == {1}
            and max(layer.strides) > 1
            and layer.kernel.shape[2] < _CHANNELS_PER_BLOCK
        )

    found = [layer.name for layer in model.layers if overflows(layer)]
    within = [overflowing_convolutions(layer) for layer in model.layers if isinstance(layer, Model)]
    return [*found, *(name for names in within for name in names)]
