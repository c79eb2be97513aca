"""What a kept allocation saves: a study's trials one after another in one job, against one sbatch per trial.

Both run on the same sandbox, which is as large as one trial, and take turns. Both start the next trial as soon as they
see the result of the one before. The queue of a real cluster, in which each job would wait, is not there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cluster.attempt import rank_environment
from cluster.launchers import launcher
from cluster.sandbox import MissingPackagesError, Sandbox, SandboxShape
from storage.protocol.attempts import AttemptRequest, RankLayout
from storage.protocol.trial_dir import TrialDir
from storage.protocol.variables import REQUIRED_BACKEND
from tests.bench.table import Row
from tests.cluster.slurm_study import REPOSITORY, START_S, SlurmStudy
from tests.waiting import wait_until

_ROUNDS = 3
_TRIALS = 3
_NODES = 2
_SBATCH = ("sbatch", f"--nodes={_NODES}", "--ntasks-per-node=1", "--gres=gpu:1", "--mem=8G", "--output=/dev/null")


class Timing(NamedTuple):
    """In seconds."""

    to_first_step: float
    """From the command to the end of the first training step of its first trial."""
    between: list[float]
    """From each trial's result to the end of the first training step of the next one."""
    ranks_after: list[float]
    """From each trial's result to the first sign of life of the next one's ranks."""


def measure_launch() -> list[Row]:
    """One sbatch per trial over a kept job with ranks that stay: times until they train; no row without Slurm."""
    kept, single = [], []
    try:
        with tempfile.TemporaryDirectory() as folder, Sandbox.start(SandboxShape(_NODES, gpus_per_node=1)) as sandbox:
            for number in range(_ROUNDS):
                study = SlurmStudy(sandbox, Path(folder), f"round{number}", trials=_TRIALS, epochs=1, nodes=_NODES)
                kept.append(_run_study(study))
                single.append(_run_jobs(study, Path(folder) / f"single{number}"))
    except MissingPackagesError as error:
        print(f"launch: not measured: {error}", file=sys.stderr)
        return []
    case = f"{_NODES} nodes x 1 rank, {_ROUNDS} x {_TRIALS} trials"
    rows = [
        Row("first command to first step: one sbatch / run.py", case, _ratio(single, kept, "to_first_step")),
        Row("trial's end to next one's ranks: one sbatch / kept job", case, _ratio(single, kept, "ranks_after")),
        Row("trial's end to next one's first step: one sbatch / kept job", case, _ratio(single, kept, "between")),
    ]
    for name in Timing._fields:
        print(f"launch: {name}: kept {_median(kept, name):.2f} s, one sbatch per trial {_median(single, name):.2f} s")
    return rows


def measure_sixteen_ranks() -> list[Row]:
    """From a trial's end to the next one's first step, on 4 nodes with 4 ranks each; no row without Slurm."""
    taken: dict[bool, Timing] = {}
    try:
        with tempfile.TemporaryDirectory() as folder, Sandbox.start(SandboxShape(4, gpus_per_node=4)) as sandbox:
            for stay in (True, False):
                size = {"nodes": 4, "ranks_per_node": 4, "gpus_per_node": 4, "global_batch_size": 16}
                patience = {"rendezvous_timeout_s": 600, "stall_s": 600, "horovod_stall_s": 240}
                study = SlurmStudy(
                    sandbox,
                    Path(folder),
                    f"stay-{stay}",
                    trials=_TRIALS,
                    epochs=1,
                    resident_ranks=stay,
                    **size,
                    **patience,
                )
                taken[stay] = _run_study(study)
    except MissingPackagesError as error:
        print(f"sixteen ranks: not measured: {error}", file=sys.stderr)
        return []
    fresh, staying = [taken[False]], [taken[True]]
    print(f"sixteen ranks: fresh {_median(fresh, 'between'):.2f} s, stayed {_median(staying, 'between'):.2f} s")
    what = "trial's end to next one's first step: fresh ranks / ranks that stayed"
    return [Row(what, f"sandbox, 4 nodes x 4 ranks, {_TRIALS} trials", _ratio(fresh, staying, "between"), ">= 20")]


def _run_study(study: SlurmStudy) -> Timing:
    started = time.time()
    study.start()
    if study.wait_for_end(4 * _TRIALS * START_S):
        raise RuntimeError(f"the study ended with {study.driver.returncode}: {study.output}")
    study.require_nothing_left()
    return _timing(started, [study.trial(number) for number in range(_TRIALS)])


def _run_jobs(study: SlurmStudy, folder: Path) -> Timing:
    """The same trials, each in a job of its own."""
    trials = [TrialDir(folder / f"{number:04d}") for number in range(_TRIALS)]
    started = time.time()
    for number, trial in enumerate(trials):
        trial.create(study.trial(number).read_spec())
        attempt = trial.new_attempt()
        layout = RankLayout(_NODES, 1, 1, gpus_per_node=1)
        program = (sys.executable, "-m", "trainers", str(trial.path), "--attempt=1", "--threads=1")
        command = shlex.join(launcher("srun").argv(layout, program))
        request = AttemptRequest(trial.path, number, 1, layout, "srun", environment={REQUIRED_BACKEND: "mpi"})
        subprocess.run(
            (*_SBATCH, f"--wrap={command}"),
            env=study.sandbox.environ | rank_environment(request, os.environ),
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        wait_until(attempt.read_result, START_S)
    study.require_nothing_left()
    return _timing(started, trials)


def _timing(started: float, trials: Sequence[TrialDir]) -> Timing:
    """By the times of the files that the ranks wrote; each trial has one attempt of one epoch."""
    attempts = [trial.attempt(1) for trial in trials]
    first_steps, ends, begins = [], [], []
    for attempt in attempts:
        epochs = attempt.read_metrics()
        if len(epochs) != 1:
            raise RuntimeError(f"{attempt.path} ended otherwise: {attempt.read_end_record()}\n{attempt.log_tail()}")
        [epoch] = epochs
        first_steps.append((attempt.path / "metrics.jsonl").stat().st_mtime - epoch.wall_s + epoch.first_batch_s)
        ends.append((attempt.path / "result.json").stat().st_mtime)
        begins.append((attempt.path / "begun").stat().st_mtime)
    return Timing(
        first_steps[0] - started,
        [step - end for step, end in zip(first_steps[1:], ends, strict=False)],
        [begin - end for begin, end in zip(begins[1:], ends, strict=False)],
    )


def _median(timings: Sequence[Timing], name: str) -> float:
    values = [getattr(timing, name) for timing in timings]
    return median(value for found in values for value in (found if isinstance(found, list) else [found]))


def _ratio(one: Sequence[Timing], other: Sequence[Timing], name: str) -> float:
    return _median(one, name) / _median(other, name)


if __name__ == "__main__":
    measure_launch()
