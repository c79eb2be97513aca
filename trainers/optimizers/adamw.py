"""Adam with decoupled weight decay: one kernel per variable.

Source: Loshchilov and Hutter 2019, arXiv:1711.05101; as Keras defines it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from trainers.components import ComponentError


def build(
    model: keras.Model,
    *,
    learning_rate: float,
    weight_decay: float = 0.004,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
) -> keras.optimizers.AdamW:
    """AdamW as Keras defines it; decay is `w <- w - learning_rate * weight_decay * w`, apart from the gradient.

    Biases and normalisation variables, which have fewer than two dimensions, do not decay.

    Raises:
        ComponentError: An option is out of its range.
    """
    for name, value in {"beta_1": beta_1, "beta_2": beta_2}.items():
        if not 0 <= value < 1:
            raise ComponentError(f"adamw: {name}={value!r}; it must be at least 0 and below 1.")
    if weight_decay < 0 or epsilon <= 0:
        raise ComponentError(
            f"adamw: weight_decay={weight_decay!r}, epsilon={epsilon!r}; they must be 0 or more, and above 0."
        )
    optimizer = FusedAdamW(
        learning_rate=float(learning_rate),
        weight_decay=float(weight_decay),
        beta_1=float(beta_1),
        beta_2=float(beta_2),
        epsilon=float(epsilon),
        name="AdamW",
    )
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


class FusedAdamW(keras.optimizers.AdamW):
    """Keras' AdamW with its variables; clipping, averaging and accumulation, which nothing here asks for, are left out.

    All hyperparameters are variables: other values need no other trace.
    """

    traced_options = ()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Not among the optimizer's variables, which checkpoints hold: these come with the specification.
        self._values = {
            name: tf.Variable(getattr(self, name), trainable=False, dtype=tf.float32)
            for name in ("weight_decay", "beta_1", "beta_2", "epsilon")
        }

    def adopt(self, other: FusedAdamW) -> None:
        """Take over all values that checkpoints do not hold."""
        for name, variable in self._values.items():
            variable.assign(other._values[name])

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> None:
        """Make one update, and count it.

        Args:
            grads: Of each variable its gradient, float32 and of its shape.
            trainable_variables: Those that the optimizer was or is to be built for; None takes them.
        """
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        self.build(variables)
        learning_rate = tf.convert_to_tensor(self.learning_rate.value)
        weight_decay, beta_1, beta_2, epsilon = map(tf.convert_to_tensor, self._values.values())
        update = tf.cast(self.iterations.value + 1, tf.float32)
        kept = 1.0 - learning_rate * weight_decay
        for gradient, variable in zip(grads, variables, strict=True):
            if self._use_weight_decay(variable):
                variable.value.assign(variable.value * kept)
            index = self._get_variable_index(variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                beta1_power=beta_1**update,
                beta2_power=beta_2**update,
                lr=learning_rate,
                beta1=beta_1,
                beta2=beta_2,
                epsilon=epsilon,
                grad=gradient,
            )
        self.iterations.assign_add(1)
