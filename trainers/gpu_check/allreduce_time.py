"""How long the ranks take to average a trial's gradient, and how much they move a second."""

from __future__ import annotations

import math
from statistics import median

import tensorflow as tf

from storage.protocol.gpu_check import AllreduceFacts, StepProgram
from storage.protocol.records import TrialSpec
from trainers.communicator import Communicator
from trainers.datasets import Dataset
from trainers.gpu_check.step_time import build_program_state
from trainers.gpu_check.stopwatch import time_calls

_BULK_BYTES = 64 * 2**20
_QUICK_S, _TIMES_LARGER = 0.05, 8
"""A link that is quicker than that is timed with one so many times larger, too: what both take alike (negotiation,
starting, the copy of a number to the host) is then a good part of it."""


def measure_allreduce(
    program: StepProgram, spec: TrialSpec, dataset: Dataset, communicator: Communicator
) -> AllreduceFacts:
    """Average tensors of the gradient's shapes in one group, as a step does, and one large tensor, on fast links the
    difference of two. A collective."""
    state = build_program_state(program, spec, dataset)
    # The weights themselves: of the gradient's shapes, and on the device.
    gradient = [variable.value for variable in state.model.trainable_variables]

    def median_s(variables: list[tf.Variable]) -> float:
        @tf.function
        def average() -> tf.Tensor:
            means = communicator.average_gradients([tf.convert_to_tensor(variable) for variable in variables])
            # One number, so that nothing else is carried to the host.
            return tf.add_n([tf.reshape(mean, [-1])[0] for mean in means])

        return median(time_calls(average, communicator)[1])

    def bulk_s_of(size: int) -> float:
        return median_s([tf.Variable(tf.zeros([size // tf.float32.size]), trainable=False)])

    bulk_bytes, bulk_s = _BULK_BYTES, bulk_s_of(_BULK_BYTES)
    if communicator.broadcast(bulk_s < _QUICK_S):
        larger_s = bulk_s_of(_TIMES_LARGER * _BULK_BYTES)
        if communicator.broadcast(larger_s > bulk_s):
            bulk_bytes, bulk_s = (_TIMES_LARGER - 1) * _BULK_BYTES, larger_s - bulk_s
    return AllreduceFacts(
        gradient_tensors=len(gradient),
        gradient_bytes=sum(math.prod(variable.shape) for variable in gradient) * tf.float32.size,
        gradient_s=median_s(gradient),
        bulk_bytes=bulk_bytes,
        bulk_s=bulk_s,
    )
