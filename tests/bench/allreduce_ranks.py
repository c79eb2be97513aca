"""How long ranks take to average gradients: `python -m tests.bench.allreduce_ranks FILE`, with a JSON list of shapes.

Rank 0 prints one JSON object: median seconds of all gradients in one group, as the trainer has them, and one by one, as
Horovod's own tape has them in the paper's program.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import horovod.tensorflow as hvd
import tensorflow as tf

_TURNS = 15


def main(shapes: list[list[int]]) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    hvd.init()
    gradients = [tf.ones(shape) for shape in shapes]

    # Arguments: Horovod names its operations after tensors of the graph.
    @tf.function
    def in_one_group(gradients: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.reduce_sum(mean) for mean in hvd.grouped_allreduce(gradients, op=hvd.Average)])

    @tf.function
    def one_by_one(gradients: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.reduce_sum(hvd.allreduce(gradient, op=hvd.Average)) for gradient in gradients])

    taken = {"in one group": _median(in_one_group, gradients), "one by one": _median(one_by_one, gradients)}
    if hvd.rank() == 0:
        print(json.dumps(taken), flush=True)


def _median(reduce: Callable[[list[tf.Tensor]], tf.Tensor], gradients: list[tf.Tensor]) -> float:
    durations = []
    # The first one is traced, and Horovod agrees on the names.
    for _ in range(2 + _TURNS):
        hvd.allreduce(tf.zeros(1), name="together")
        started = time.perf_counter()
        reduce(gradients).numpy()
        durations.append(time.perf_counter() - started)
    return median(durations[2:])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
