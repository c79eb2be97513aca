"""What lies between two trials: ranks that stay, against ranks that are started for each trial."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

from cluster.attempt import Runner, StopSignal
from storage.protocol.records import ComponentSpec, EpochMetrics, TrialSpec
from tests.bench.table import Row
from tests.trainers.tiny_trial import open_attempt, tiny_spec

_ROUNDS = 3
_TRIALS = 4
_FEW, _MANY = 3, 50
"""Trials after which the memory is read."""


def measure_turnover() -> list[Row]:
    """From a trial's end to the end of the first training step of the next one. Both take turns."""
    fresh, staying = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_ROUNDS):
            staying += _run_trials(Path(folder) / f"staying{number}", ranks_stay=True)
            fresh += _run_trials(Path(folder) / f"fresh{number}", ranks_stay=False)
    print(f"turnover: fresh ranks {median(fresh):.2f} s, ranks that stayed {median(staying):.2f} s")
    case = f"local, 2 ranks, {_ROUNDS} x {_TRIALS} trials"
    ratio = median(fresh) / median(staying)
    return [
        Row("trial's end to next one's first step: fresh ranks / ranks that stayed", case, ratio, ">= 8"),
        *_measure_memory(),
    ]


def _measure_memory() -> list[Row]:
    """Resident memory of an allocation's processes after many trials over that after a few."""
    memory: dict[int, list[int]] = {}

    def note(number: int) -> None:
        memory[number + 1] = _resident_bytes()

    with tempfile.TemporaryDirectory() as folder:
        _run_trials(Path(folder), ranks_stay=True, trials=_MANY, then=note)
    (runner, *children), (runner_at_first, *children_at_first) = memory[_MANY], memory[_FEW]
    print(f"memory in MiB after {_FEW} and {_MANY} trials: {_mib(memory[_FEW])}, {_mib(memory[_MANY])}")
    case = f"local, 2 ranks, after {_MANY} trials / after {_FEW}"
    return [
        Row("memory of the runner", case, runner / runner_at_first, "<= 1.1"),
        Row("memory of supervisor, launcher and ranks", case, sum(children) / sum(children_at_first), "<= 1.1"),
    ]


def _resident_bytes() -> list[int]:
    """Of this process, which is the runner, and of each of its descendants."""
    runner = psutil.Process()
    return [process.memory_info().rss for process in (runner, *runner.children(recursive=True))]


def _mib(sizes: list[int]) -> list[int]:
    return [size // 2**20 for size in sizes]


def _run_trials(
    folder: Path, *, ranks_stay: bool, trials: int = _TRIALS, then: Callable[[int], None] = lambda number: None
) -> list[float]:
    """Seconds between each trial and the next; `then` is called after each, with its number."""
    runner, ended_s, between = Runner(), 0.0, []
    for number in range(trials):
        request = open_attempt(folder / str(number), _spec(number), ranks_stay=ranks_stay)
        stepped: list[float] = []
        end = runner.run(request, _note_first_step(stepped), StopSignal())
        if end.result is None:
            raise RuntimeError(f"trial {number}: {end.reason}\n{end.log_tail}")
        if number > 0:
            between.append(stepped[0] - ended_s)
        ended_s = time.monotonic()
        then(number)
    runner.close()
    return between


def _note_first_step(stepped: list[float]) -> Callable[[EpochMetrics], None]:
    def relay(metrics: EpochMetrics) -> None:
        stepped.append(time.monotonic() - metrics.wall_s + metrics.first_batch_s)

    return relay


def _spec(number: int) -> TrialSpec:
    """As in a search: other values of the same options."""
    options = {"learning_rate": 0.01 * (number + 1), "momentum": 1 - 0.9 / (number + 1), "weight_decay": 0.01}
    optimizer = ComponentSpec("sgd", {**options, "nesterov": number % 2 == 1})
    return tiny_spec(trial_number=number, seed=number, epochs=2, deterministic=False, optimizer=optimizer)
