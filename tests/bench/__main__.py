"""`make bench`: measures, and prints one table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.attempt import AttemptRequest, rank_environment
from cluster.launchers import RankLayout, launcher

_CASES = [("small_resnet", 4), ("small_resnet", 32), ("efficientnet_b0", 2)]


@dataclass(frozen=True)
class Row:
    what: str
    model: str
    micro_batch: int
    ratio: float
    target: str
    met: bool | None


def main() -> None:
    console = Console()
    rows: list[Row] = []
    for model, micro_batch in _CASES:
        with console.status(f"{model}, {micro_batch} samples a micro-batch"):
            rows += measure_training(model, micro_batch)
    table = Table(title=f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {_cpu_name()}", title_justify="left")
    for heading in ("what", "model", "micro-batch", "ratio", "target", "met"):
        table.add_column(heading, justify="left" if heading in ("what", "model") else "right")
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "NO"
        table.add_row(row.what, row.model, str(row.micro_batch), f"{row.ratio:.2f}", row.target, met)
    console.print(table)


def measure_training(model: str, micro_batch: int) -> list[Row]:
    """The trainer's four ratios, on two ranks and on one."""
    two = _run_ranks(2, model, micro_batch)
    one = _run_ranks(1, model, micro_batch)
    faster, pipeline = two["algorithm_1_to_ours"], one["pipeline_to_bare_step"]
    first = two["first_big_step_to_median"]
    return [
        Row("small phase: Algorithm 1 as printed / ours", model, micro_batch, faster, ">= 1.2", faster >= 1.2),
        Row("pipeline and Horovod, 1 rank / bare step", model, micro_batch, pipeline, ">= 0.95", pipeline >= 0.95),
        Row("first step after the switch / median", model, micro_batch, first, "<= 1.5", first <= 1.5),
        Row("epoch before / after the switch", model, micro_batch, two["epoch_before_to_after"], "", None),
    ]


def _run_ranks(ranks: int, *arguments: object) -> dict[str, float]:
    layout = RankLayout(nodes=1, ranks_per_node=ranks, cpus_per_rank=1)
    program = (sys.executable, "-m", "tests.bench.training", *map(str, arguments))
    request = AttemptRequest(Path(), 1, layout, "mpirun")
    run = subprocess.run(
        launcher("mpirun").argv(layout, program),
        env={**rank_environment(request, os.environ), "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
