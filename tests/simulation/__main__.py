"""Simulate whole studies: `python -m tests.simulation --seeds 0:1000`. `--seeds N` replays one, with its trace."""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from tests.simulation.universe import Universe
from tests.simulation.world import InvariantError

_TRACE_LINES = 60


@dataclass(frozen=True)
class Failure:
    seed: int
    reason: str
    trace: tuple[str, ...]


def simulate(seed: int, verbose: bool = False) -> Failure | None:
    """Run one seed; None if all went as it must."""
    universe = Universe(seed, verbose)
    # A sixth of the time otherwise.
    gc.disable()
    try:
        universe.run()
    except InvariantError as error:
        return Failure(seed, str(error), tuple(universe.world.trace))
    except Exception:  # noqa: BLE001  a bug is a finding like any other
        return Failure(seed, traceback.format_exc(), tuple(universe.world.trace))
    finally:
        del universe
        gc.enable()
        gc.collect()
    return None


def silence() -> None:
    """Nobody reads the logs of a thousand drivers. What has been imported is no garbage."""
    gc.freeze()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    logging.disable(logging.CRITICAL)


def find_failures(seeds: range, processes: int | None = None) -> list[Failure]:
    with multiprocessing.get_context("fork").Pool(processes, initializer=silence) as pool:
        return [failure for failure in pool.imap(simulate, seeds, chunksize=10) if failure is not None]


def first_failure(seeds: Sequence[int]) -> Failure | None:
    """The first one found, whichever seed it is of."""
    with multiprocessing.get_context("fork").Pool(initializer=silence) as pool:
        return next((failure for failure in pool.imap_unordered(simulate, seeds) if failure is not None), None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", metavar="FROM:TO", help="or one seed, to be shown")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition(":")
    silence()
    if not last:
        failure = simulate(int(first), verbose=True)
        print(f"seed {first}: {failure.reason if failure else 'as it must be'}")
        return 1 if failure else 0
    started_s = time.monotonic()
    seeds = range(int(first), int(last))
    failures = find_failures(seeds)
    for failure in failures[:3]:
        print(f"seed {failure.seed}: {failure.reason}", *failure.trace[-_TRACE_LINES:], sep="\n", end="\n\n")
    print(
        f"{len(seeds)} studies in {time.monotonic() - started_s:.0f} s, {len(failures)} went wrong"
        + (f": {', '.join(str(failure.seed) for failure in failures[:20])}" if failures else "")
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
