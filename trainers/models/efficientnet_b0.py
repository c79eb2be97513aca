"""EfficientNet-B0, untrained, for images of any size and number of bands: 4.1 million weights.

Source: Tan and Le 2019, arXiv:1905.11946; the layers are those of keras.applications.
"""

from __future__ import annotations

import keras
from keras import layers

from trainers.components import ComponentError

_KERAS_DROP_CONNECT_RATE = 0.2
"""Fixed in keras.applications.EfficientNetB0, as the rate of a block after the last one."""


def build(
    input_shape: tuple[int, int, int],
    class_count: int,
    *,
    dropout_rate: float = 0.2,
    drop_connect_rate: float = 0.2,
    batch_norm_momentum: float = 0.99,
) -> keras.Model:
    """EfficientNet-B0 from images to logits. Both kinds of dropout follow keras.utils.set_random_seed.

    Args:
        dropout_rate: Share of the 1,280 pooled features that training leaves out.
        drop_connect_rate: Share of the samples for which training leaves out a residual block. It rises linearly from
            0 at the first block.
        batch_norm_momentum: Share of the old moving statistics that one update keeps.

    Raises:
        ComponentError: An option is out of its range.
    """
    rates = {
        "dropout_rate": dropout_rate,
        "drop_connect_rate": drop_connect_rate,
        "batch_norm_momentum": batch_norm_momentum,
    }
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ComponentError(f"efficientnet_b0: {name}={rate}; it must be in [0, 1).")

    # As input_tensor, because input_shape is meant for 1 or 3 bands of 32 pixels and more.
    whole = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_tensor=keras.Input(input_shape), pooling="avg"
    )
    # Keras divides the images by 255 first; ours are standardised, so the network begins behind that.
    backbone = keras.Model(whole.get_layer("stem_conv_pad").input, whole.output)
    for layer in backbone.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate *= drop_connect_rate / _KERAS_DROP_CONNECT_RATE
        elif isinstance(layer, layers.BatchNormalization):
            layer.momentum = batch_norm_momentum

    features = layers.Dropout(dropout_rate)(backbone.output)
    return keras.Model(
        backbone.input, layers.Dense(class_count, name="logits", dtype="float32")(features), name="efficientnet_b0"
    )
