"""`python -m tests.bench.search measured|simulated`: the tables, curves and figure of docs/results/search.md.

`measured RUNS --out DIR` reads the studies of study/configs/search_small.toml out of their folders and writes
measured.csv, curves.csv and search.svg; `simulated DIR/curves.csv` prints the simulated searches.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from storage.protocol.trial_dir import TrialDir
from study.halving import default_first_rung, default_rungs
from study.reporting.statistics import Estimate, mean_over_seeds
from tests.bench.search.figure import figure
from tests.bench.search.simulated import Curves, Machine, Method, methods, read_curves, times_to_target
from tests.bench.search.timeline import Search, read_search

METHODS = ("random", "median", "asha", "promotion", "hyperband")
_EFFICIENCIES = (1.0, 0.9, 0.8)
_PATIENCE = 200.0
"""Times of a whole trial on four nodes, of which the cluster does six at once."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search", description=__doc__)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("measured")
    measured.add_argument("runs", type=Path, help="folder of the studies METHOD-SEED")
    measured.add_argument("--out", type=Path, required=True)
    measured.add_argument("--epochs", type=int, default=27, help="of a whole trial")
    measured.set_defaults(run=lambda chosen: _measured(chosen.runs, chosen.out, chosen.epochs))
    simulated = commands.add_parser("simulated")
    simulated.add_argument("curves", type=Path)
    simulated.add_argument("--searches", type=int, default=10_000)
    simulated.add_argument("--within", type=float, default=0.01, help="of the best recorded score")
    simulated.set_defaults(run=lambda chosen: _simulated(read_curves(chosen.curves), chosen.searches, chosen.within))
    chosen = parser.parse_args()
    chosen.run(chosen)


def _measured(runs: Path, out: Path, epochs: int) -> None:
    folders = sorted(folder for folder in runs.iterdir() if folder.name.rpartition("-")[0] in METHODS)
    searches = [read_search(folder, epochs) for folder in folders]
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "measured.csv", ["method", "seed", *_COLUMNS], _rows(searches))
    _write(out / "curves.csv", ["seed", "trial", "epoch", "f1_micro", "seconds"], _curves(folders))
    (out / "search.svg").write_text(figure(searches, METHODS).svg())
    Console(width=160).print(_table(searches))


# Epochs, not node-hours: those of a machine with other work to do are not comparable from one study to the next.
_COLUMNS = (
    "epochs, of random",
    "best F1 micro",
    "below the best of random",
    "best F1 micro for half the epochs of random",
    "epochs to the best of random, of random",
)


def _compared(search: Search, whole: Search) -> tuple[float | None, ...]:
    """The numbers of _COLUMNS.

    Args:
        whole: Random search to the last epochs, of the same seed.
    """

    reached = search.cost_to_reach(whole.best)
    return (
        search.cost / whole.cost,
        search.best,
        whole.best - search.best,
        search.best_within(whole.cost / 2),
        None if reached is None else reached / whole.cost,
    )


def _rows(searches: Sequence[Search]) -> Iterator[list[object]]:
    whole = {search.seed: search for search in searches if search.method == METHODS[0]}
    for search in searches:
        yield [search.method, search.seed, *_compared(search, whole[search.seed])]


def _table(searches: Sequence[Search]) -> Table:
    """By method, means over the seeds with their 95 % intervals."""
    table = Table(box=box.MARKDOWN)
    for heading in ("method", *_COLUMNS):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    rows = list(_rows(searches))
    for method in METHODS:
        own = [row[2:] for row in rows if row[0] == method]
        if own:
            table.add_row(method, *(_cell(values) for values in zip(*own, strict=True)))
    return table


def _cell(values: Sequence[object]) -> str:
    known = [value for value in values if isinstance(value, float)]
    missing = f"; never in {len(values) - len(known)} of {len(values)}" if len(known) < len(values) else ""
    return (_text(mean_over_seeds(known)) if known else "") + missing


def _text(estimate: Estimate) -> str:
    interval = f" ({estimate.low:.3f} to {estimate.high:.3f})" if estimate.has_interval else ""
    return f"{estimate.value:.3f}{interval}"


def _curves(folders: Sequence[Path]) -> Iterator[list[object]]:
    """Every epoch of the trials that nobody stopped."""
    for folder in folders:
        method, _, seed = folder.name.rpartition("-")
        if method != METHODS[0]:
            continue
        for number, trial in enumerate(sorted((folder / "trials").iterdir())):
            for metrics in TrialDir(trial).attempts()[-1].read_metrics():
                yield [seed, number, metrics.epoch + 1, round(metrics.f1_micro, 6), round(metrics.wall_s, 4)]


def _write(path: Path, headings: Sequence[str], rows: Iterator[list[object]]) -> None:
    with path.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(headings)
        writer.writerows(rows)


def _simulated(curves: Curves, searches: int, within: float) -> None:
    rungs = default_rungs(default_first_rung(3, curves.epochs), 3, curves.epochs)
    table = Table(box=box.MARKDOWN)
    table.add_column(f"expected time to within {within:.0%} of the best, in times of a trial on 4 nodes")
    for efficiency in _EFFICIENCIES:
        table.add_column(f"efficiency {efficiency}", justify="right")
    with ProcessPoolExecutor() as processes:
        for method in methods(rungs):
            expected = partial(_expected, curves, method, searches, within)
            table.add_row(method.name, *processes.map(expected, _EFFICIENCIES))
    Console(width=160).print(table)


def _expected(curves: Curves, method: Method, searches: int, within: float, efficiency: float) -> str:
    times = times_to_target(curves, method, Machine(efficiency), searches, within, _PATIENCE)
    found = [time for time in times if time < math.inf]
    if len(found) < len(times):
        median = f"median {statistics.median(times):.2f}, " if len(found) > len(times) / 2 else ""
        return f"{median}not within {_PATIENCE:g} in {1 - len(found) / len(times):.1%}"
    error = 1.96 * statistics.stdev(times) / len(times) ** 0.5
    deciles = statistics.quantiles(times, n=10)
    return f"{statistics.fmean(times):.2f} ± {error:.2f} (9 of 10 within {deciles[-1]:.1f})"


if __name__ == "__main__":
    main()
