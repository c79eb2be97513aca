"""`make bench`: measures, and prints one table. ARGS="input launch" measures only these."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.bench.allreduce import measure_allreduce
from tests.bench.forecast import measure_forecast
from tests.bench.input import measure_input
from tests.bench.launch import measure_launch, measure_sixteen_ranks
from tests.bench.table import Row, table
from tests.bench.training import measure_training
from tests.bench.turnover import measure_turnover

_BENCHMARKS: dict[str, Callable[[], Sequence[Row]]] = {
    "training": measure_training,
    "input": measure_input,
    "turnover": measure_turnover,
    "launch": measure_launch,
    "sixteen-ranks": measure_sixteen_ranks,
    "forecast": measure_forecast,
    "allreduce": measure_allreduce,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(_BENCHMARKS)}; default: all")
    chosen = parser.parse_args().benchmarks or list(_BENCHMARKS)
    if unknown := set(chosen) - set(_BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(_BENCHMARKS)}")
    console = Console()
    rows: list[Row] = []
    for name in chosen:
        with console.status(name):
            rows += _BENCHMARKS[name]()
    title = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {_cpu_name()}"
    # As wide as it is, whatever the terminal: a folded row cannot be pasted.
    Console(width=160).print(table(title, rows))


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
