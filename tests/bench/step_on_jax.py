"""An update of EfficientNet-B0 on one device, where there is no TensorFlow: Keras on JAX.

    python -m tests.bench.step_on_jax [--batch-sizes 32 1024] [--precisions bfloat16 tf32 float32]

Points for the performance model (docs/performance_model.md): forward, backward and update, 120 pixels, 12 bands, 19
classes, Nesterov's momentum. XLA compiles the whole update, so that they compare with the forms `-xla` of gpu-check. No
allreduce, no input: the batch stays on the device. Prints a line of JSON for each point as it is measured.

Needs keras and jax, and of this project the model alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

# Before Keras is imported.
os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras

from trainers.models import efficientnet_b0

_SIDE, _BANDS, _CLASSES = 120, 12, 19
_LEARNING_RATE, _MOMENTUM = 0.01, 0.9
_TURNS = 5
_TURN_S = 2.0
"""Each turn is as many updates as take about so long, one started after the other without a wait in between."""
# How JAX multiplies float32.
_OF_MATRICES = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "highest"}

State = tuple[list[jax.Array], list[jax.Array], list[jax.Array]]
"""Weights, what else the model keeps, velocities."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.step_on_jax", description=__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 1024])
    # The smallest peak first: a device tells that of the whole process.
    parser.add_argument("--precisions", nargs="+", choices=_OF_MATRICES, default=["bfloat16", "tf32", "float32"])
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print(json.dumps({"device": device.device_kind, "jax": jax.__version__, "keras": keras.__version__}), flush=True)
    for batch_size in sorted(arguments.batch_sizes):
        for precision in arguments.precisions:
            point = {"precision": precision, "batch_size": batch_size}
            try:
                point |= measure(precision, batch_size)
            except jax.errors.JaxRuntimeError as error:
                point |= {"failed": str(error).splitlines()[0]}
            stats = device.memory_stats() or {}
            print(json.dumps({**point, "peak_bytes_so_far": stats.get("peak_bytes_in_use")}), flush=True)


def measure(precision: str, batch_size: int) -> dict[str, Any]:
    """Median, least and most seconds of an update over some turns, and those of the first one, which is compiled."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    model = efficientnet_b0.build((_SIDE, _SIDE, _BANDS), _CLASSES)
    weights = [variable.value for variable in model.trainable_variables]
    state: State = weights, [v.value for v in model.non_trainable_variables], [jnp.zeros_like(w) for w in weights]
    key = jax.random.key(1)
    images = jax.random.normal(key, (batch_size, _SIDE, _SIDE, _BANDS))
    labels = jax.random.bernoulli(key, 0.15, (batch_size, _CLASSES)).astype(jnp.float32)
    with jax.default_matmul_precision(_OF_MATRICES[precision]):
        update = jax.jit(partial(_update, model), donate_argnums=0)

        def run(state: State, updates: int) -> tuple[float, State]:
            started = time.perf_counter()
            for _ in range(updates):
                state, loss = update(state, images, labels)
            loss.block_until_ready()
            return time.perf_counter() - started, state

        first_s, state = run(state, 1)
        warm_s, state = run(state, 2)
        updates = max(1, round(_TURN_S / (warm_s / 2)))
        times_s = []
        for _ in range(_TURNS):
            turn_s, state = run(state, updates)
            times_s.append(turn_s / updates)
    return {
        "update_s": median(times_s),
        "least_s": min(times_s),
        "most_s": max(times_s),
        "updates_a_turn": updates,
        "first_update_s": first_s,
        "images_per_s": batch_size / median(times_s),
    }


def _update(model: keras.Model, state: State, images: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
    weights, others, velocities = state

    def loss_of(weights: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        logits, changed = model.stateless_call(weights, others, images, training=True)
        return jnp.mean(jnp.logaddexp(0.0, logits) - labels * logits), changed

    differentiate: Callable[..., Any] = jax.value_and_grad(loss_of, has_aux=True)
    (loss, others), gradients = differentiate(weights)
    # As ResourceApplyKerasMomentum does it.
    velocities = [_MOMENTUM * v - _LEARNING_RATE * g for v, g in zip(velocities, gradients, strict=True)]
    weights = [w + _MOMENTUM * v - _LEARNING_RATE * g for w, v, g in zip(weights, velocities, gradients, strict=True)]
    return (weights, others, velocities), loss


if __name__ == "__main__":
    main()
