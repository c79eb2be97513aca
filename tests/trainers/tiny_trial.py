"""A trial that two ranks train in a second, run by the product's own runner, and the means to meet it in mid-epoch."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from cluster.attempt import StopSignal, rank_command, rank_environment, run_attempt
from cluster.launchers import launcher
from storage.protocol.attempts import AttemptEnd, AttemptRequest, RankLayout
from storage.protocol.records import ComponentSpec, EpochMetrics, TrialSpec
from storage.protocol.trial_dir import AttemptDir, TrialDir
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"

# Starting two TensorFlows takes ten seconds on two idle cores, and the cores may be busy.
DEADLINE_S = 240.0

SMALL, LARGE = 8, 16
TRAIN, VAL = 96, 41
"""Over two ranks: six loader batches of eight samples each, and shards of 21 and 20."""
READS_PER_EPOCH = 6 + 3


def tiny_spec(**changes: Any) -> TrialSpec:
    """Four epochs, the batch switched in the middle; bit-identical when repeated."""
    spec = TrialSpec(
        study_name="tiny",
        trial_number=0,
        seed=1,
        epochs=4,
        world_size=2,
        loader_batch_size=8,
        model=ComponentSpec("small_resnet", {"width": 4, "blocks": [1]}),
        dataset=ComponentSpec("synthetic_bigearthnet", {"train": TRAIN, "val": VAL, "size": 8}),
        optimizer=ComponentSpec("sgd", {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.01}),
        batch_policy=switch_at(2),
        cache_dir="cache",
        deterministic=True,
    )
    return dataclasses.replace(spec, **changes)


def switch_at(epoch: int, small: int = SMALL, large: int = LARGE) -> ComponentSpec:
    options = {"small_global_batch_size": small, "large_global_batch_size": large, "switch_epoch": epoch}
    return ComponentSpec("switch_at_epoch", options)


def open_attempt(
    trial_dir: Path, spec: TrialSpec, hold_at_read: int | None = None, ranks: int | None = None, **more: Any
) -> AttemptRequest:
    """The next attempt of a trial, ready to run. The trial is made, if it is not there.

    Args:
        ranks: Default: as many as the trial's first epoch takes.
    """
    trial = TrialDir(trial_dir)
    if not trial.create(spec):
        assert trial.read_spec() == spec, f"{trial_dir} is there already, and is another trial"
    attempt = trial.new_attempt()
    held = {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "held_ranks"), str(ROOT)]),
        "HOLD_AT_READ": str(hold_at_read),
        "HOLD_DIR": str(attempt.path),
    }
    return AttemptRequest(
        trial_dir=trial_dir,
        trial_number=spec.trial_number,
        attempt_number=attempt.number,
        layout=RankLayout(nodes=1, ranks_per_node=ranks or spec.world_size, cpus_per_rank=1),
        launcher_name="mpirun",
        environment=held if hold_at_read else {},
        **more,
    )


def attempt_of(request: AttemptRequest) -> AttemptDir:
    return TrialDir(request.trial_dir).attempt(request.attempt_number)


class Run:
    """An attempt under way in this process, as in a Dask worker."""

    def __init__(self, request: AttemptRequest) -> None:
        self.request = request
        self.attempt = attempt_of(request)
        self.stop = StopSignal()
        self.relayed: list[EpochMetrics] = []
        self._end = ThreadPoolExecutor(1).submit(run_attempt, request, self.relayed.append, self.stop)

    def end(self, within_s: float = DEADLINE_S) -> AttemptEnd:
        return self._end.result(within_s)


def start_ranks(request: AttemptRequest) -> subprocess.Popen[str]:
    """The ranks alone, as the launcher starts them: no runner and no supervisor is there to end them."""
    environment = rank_environment(request, os.environ)
    return subprocess.Popen(
        rank_command(request), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def held_ranks(request: AttemptRequest) -> list[int]:
    """Wait until all ranks are held in mid-epoch; their process ids, in rank order."""
    markers = _markers(request)
    wait_until(lambda: all(marker.exists() for marker in markers), DEADLINE_S)
    return [int(marker.read_text()) for marker in markers]


def release_ranks(request: AttemptRequest) -> None:
    """Let the held ranks go on."""
    for marker in _markers(request):
        marker.unlink()


def _markers(request: AttemptRequest) -> list[Path]:
    held = f"held-{request.trial_dir.name}-{request.attempt_number}"
    return [attempt_of(request).path / f"{held}-{rank}" for rank in range(request.layout.world_size)]


def processes_of(trial_dir: Path) -> list[psutil.Process]:
    """Everything that runs for a trial: supervisor, launcher and ranks are told its directory."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if str(trial_dir) in (process.info["cmdline"] or ()) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def run_program(name: str, *arguments: str | Path, ranks: int = 2, **environment: str) -> subprocess.CompletedProcess:
    """Run one of the programs beside this file under mpirun, in the environment of the product's ranks."""
    layout = RankLayout(nodes=1, ranks_per_node=ranks, cpus_per_rank=1)
    request = AttemptRequest(Path(), 0, 1, layout, "mpirun", environment=environment)
    program = (sys.executable, PROGRAMS / f"{name}.py", *arguments)
    return subprocess.run(
        launcher("mpirun").argv(layout, [str(word) for word in program]),
        env=rank_environment(request, os.environ),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def without_times(epochs: tuple[EpochMetrics, ...] | list[EpochMetrics]) -> list[dict[str, Any]]:
    """All of the metrics that a repetition must give again, bit by bit."""
    times = ("samples_per_s", "first_batch_s", "wall_s", "energy_by_counter_j")
    return [{name: value for name, value in vars(metrics).items() if name not in times} for metrics in epochs]
