"""How long the ranks take to average a trial's gradient, and how much they move a second."""

from __future__ import annotations

from statistics import median

import tensorflow as tf

from storage.protocol.gpu_check import AllreduceFacts, StepProgram
from storage.protocol.records import TrialSpec
from trainers.communicator import Communicator
from trainers.datasets import Dataset
from trainers.gpu_check.step_time import build_program_state
from trainers.gpu_check.stopwatch import time_calls

_BULK_BYTES = 64 * 2**20
"""The size of Horovod's own fusion buffer at its default: many times what latency is of account for."""


def measure_allreduce(
    program: StepProgram, spec: TrialSpec, dataset: Dataset, communicator: Communicator
) -> AllreduceFacts:
    """Average tensors of the gradient's shapes in one group, as a step does, and one large tensor. A collective."""
    state = build_program_state(program, spec, dataset)
    gradient = [tf.ones(variable.shape) for variable in state.model.trainable_variables]
    bulk = [tf.ones([_BULK_BYTES // tf.float32.size])]

    def median_s(tensors: list[tf.Tensor]) -> float:
        @tf.function
        def average() -> tf.Tensor:
            # One number, so that nothing else is carried to the host.
            return tf.add_n([tf.reshape(mean, [-1])[0] for mean in communicator.average_gradients(tensors)])

        return median(time_calls(average, communicator)[1])

    return AllreduceFacts(
        gradient_tensors=len(gradient),
        gradient_bytes=sum(int(tf.size(tensor)) for tensor in gradient) * tf.float32.size,
        gradient_s=median_s(gradient),
        bulk_bytes=_BULK_BYTES,
        bulk_s=median_s(bulk),
    )
