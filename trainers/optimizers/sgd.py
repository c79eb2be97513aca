"""Stochastic gradient descent with momentum, Nesterov's variant and decoupled weight decay: one kernel per variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


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
    optimizer = FusedSGD(
        learning_rate=float(learning_rate),
        momentum=float(momentum),
        nesterov=nesterov,
        weight_decay=float(weight_decay) or None,
        # As Keras names it, and with it the variables.
        name="SGD",
    )
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


class FusedSGD(keras.optimizers.SGD):
    """Keras' SGD with its variables; clipping, averaging and accumulation, which nothing here asks for, are left out.

    Learning rate, momentum, Nesterov's variant and weight decay are variables: other values need no other trace.
    Whether there is momentum or decay at all makes another one.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Not among the optimizer's variables, which checkpoints hold: these come with the specification.
        self.momentum_value = tf.Variable(self.momentum, trainable=False, dtype=tf.float32)
        self.weight_decay_value = tf.Variable(self.weight_decay or 0.0, trainable=False, dtype=tf.float32)
        self.nesterov_value = tf.Variable(self.nesterov, trainable=False, dtype=tf.bool)

    @property
    def traced_options(self) -> tuple[bool, bool]:
        """Optimizers of one model that have the same ones can `adopt` each other's values under one trace."""
        return bool(self.momentum), bool(self.weight_decay)

    def adopt(self, other: FusedSGD) -> None:
        """Take over all values that checkpoints do not hold."""
        self.momentum_value.assign(other.momentum_value)
        self.weight_decay_value.assign(other.weight_decay_value)
        self.nesterov_value.assign(other.nesterov_value)

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> None:
        """Make one update, and count it.

        Args:
            grads: Of each variable its gradient, float32 and of its shape.
            trainable_variables: Those that the optimizer was or is to be built for; None takes them.
        """
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        self.build(variables)
        learning_rate = tf.convert_to_tensor(self.learning_rate.value)
        if self.weight_decay:
            kept = 1.0 - learning_rate * self.weight_decay_value
            for variable in filter(self._use_weight_decay, variables):
                variable.value.assign(variable.value * kept)
        if self.momentum:
            tf.cond(
                self.nesterov_value,
                lambda: self._apply_momentum(grads, variables, learning_rate, nesterov=True),
                lambda: self._apply_momentum(grads, variables, learning_rate, nesterov=False),
            )
        else:
            for gradient, variable in zip(grads, variables, strict=True):
                tf.raw_ops.ResourceApplyGradientDescent(var=variable.value.handle, alpha=learning_rate, delta=gradient)
        self.iterations.assign_add(1)

    def _apply_momentum(
        self, grads: Sequence[tf.Tensor], variables: list[keras.Variable], learning_rate: tf.Tensor, *, nesterov: bool
    ) -> None:
        momentum = tf.convert_to_tensor(self.momentum_value)
        for gradient, variable in zip(grads, variables, strict=True):
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.value.handle,
                accum=self.momentums[self._get_variable_index(variable)].value.handle,
                lr=learning_rate,
                grad=gradient,
                momentum=momentum,
                use_nesterov=nesterov,
            )
