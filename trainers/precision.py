"""What a model computes in: `training.precision`."""

from __future__ import annotations

import keras
import tensorflow as tf

from storage.protocol.records import Precision


def set_precision(precision: Precision) -> None:
    """Have models that are built from now on compute so; for tf32, all that this process computes."""
    keras.config.set_dtype_policy("mixed_bfloat16" if precision is Precision.BFLOAT16 else "float32")
    # TensorFlow's own default is tf32, under the name of float32.
    tf.config.experimental.enable_tensor_float_32_execution(precision is Precision.TF32)
