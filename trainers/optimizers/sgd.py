"""Stochastic gradient descent with momentum, Nesterov's variant and decoupled weight decay."""

from __future__ import annotations

import keras


def build(
    model: keras.Model,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> keras.optimizers.SGD:
    """SGD as Keras defines it; decay is `w <- w - learning_rate * weight_decay * w`, apart from the gradient.

    Biases and normalisation variables do not decay: shrinking them regularises nothing and slows batch
    normalisation. They are the variables with fewer than two dimensions.
    """
    optimizer = keras.optimizers.SGD(
        learning_rate=float(learning_rate),
        momentum=float(momentum),
        nesterov=nesterov,
        weight_decay=float(weight_decay) or None,
    )
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer
