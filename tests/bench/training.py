"""The trainer's benchmark: starts the ranks of tests/bench/training_ranks.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cluster.attempt import rank_environment
from cluster.launchers import launcher
from storage.protocol.attempts import AttemptRequest, RankLayout
from tests.bench.table import Row

# Model, image size, micro-batch, and micro-batches in a loader batch. EfficientNet at 120 x 120 takes minutes for a
# loader batch on a CPU.
_CASES = [
    ("small_resnet", 32, 4, 16),
    ("small_resnet", 32, 32, 16),
    ("efficientnet_b0", 32, 2, 16),
    ("efficientnet_b0", 64, 8, 4),
]


def measure_training() -> list[Row]:
    """The trainer's six ratios, on two ranks and on one, for each case."""
    return [row for case in _CASES for row in _measure(*case)]


def _measure(model: str, size: int, micro_batch: int, split: int) -> list[Row]:
    two, one = (_run_ranks(ranks, model, size, micro_batch, split) for ranks in (2, 1))
    case = f"{model} at {size} pixels, micro-batch {micro_batch}"
    is_small = model == "small_resnet" and micro_batch == 4
    return [
        Row("small phase: the paper's program / ours", case, two["paper_to_ours"], ">= 1.5" if is_small else ">= 1.3"),
        Row("small phase: Algorithm 1 as printed / ours", case, two["algorithm_1_to_ours"], ">= 1.2"),
        Row("pipeline and Horovod, 1 rank / bare step", case, one["pipeline_to_bare_step"], ">= 0.95"),
        # Fewer, larger operations save what their number costs: much of EfficientNet's many layers.
        Row(
            "a step: Keras' own kernels / fused",
            case,
            one["keras_to_fused"],
            ">= 1.25" if model == "efficientnet_b0" else "",
        ),
        Row("first step after the switch / median", case, two["first_big_step_to_median"], "<= 1.5"),
        Row("epoch before / after the switch", case, two["epoch_before_to_after"]),
    ]


def _run_ranks(ranks: int, *arguments: object) -> dict[str, float]:
    layout = RankLayout(nodes=1, ranks_per_node=ranks, cpus_per_rank=1)
    program = (sys.executable, "-m", "tests.bench.training_ranks", *map(str, arguments))
    request = AttemptRequest(Path(), 0, 1, layout, "mpirun")
    run = subprocess.run(
        launcher("mpirun").argv(layout, program),
        env={**rank_environment(request, os.environ), "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))
    return found
