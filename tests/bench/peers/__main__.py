"""`make bench-peers`: the same short trainings by us, by Optuna and by Ray Tune, in turn on this machine.

All three train the demo's configurations, two epochs each, with the same ranks of the same layout; the data set is
there and the configuration checked before the clock starts. The peers start `mpirun ... python -m trainers` once per
trial and wait for it: what one has who puts a Horovod trial under them. They keep no attempts, pause nothing and notice
no lost rank.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from cluster.attempt import rank_environment
from cluster.launchers import launcher
from cluster.profile import available_cores, load_site
from storage.protocol.attempts import AttemptRequest
from storage.protocol.trial_dir import TrialDir
from tests.architecture.sources import REPOSITORY
from tests.bench.peers.curve import EPOCHS
from tests.bench.table import Row, table

_HERE = Path(__file__).parent
_SITE = load_site("local")
_LAYOUT = _SITE.layout(available_cores())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--ray", type=Path, required=True, help="a Python that has ray[tune]")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--empty", type=int, default=1000)
    arguments = parser.parse_args()
    peers = {"Optuna": [sys.executable, str(_HERE / "optuna_peer.py")]}
    peers["Ray Tune"] = [str(arguments.ray.absolute()), str(_HERE / "ray_peer.py")]
    with tempfile.TemporaryDirectory(prefix="switchyard-peers-") as folder:
        rows = [
            *_measure_trainings(Path(folder), arguments.trials, peers),
            *_measure_empty_trials(Path(folder), arguments.empty, peers, "--empty"),
            *_measure_empty_trials(Path(folder), arguments.empty, peers, "--asha"),
        ]
    Console(width=160).print(table("peers / ours", rows))


def _measure_trainings(folder: Path, count: int, peers: dict[str, list[str]]) -> list[Row]:
    # Fills the data set's cache and checks the configuration, for all three.
    _run_study(folder / "warm", 1)
    ours_s = _run_study(folder, count)
    ours = [TrialDir(folder / "peers" / "trials" / f"{number:04d}") for number in range(count)]
    ours_between = _between(ours)
    print(f"ours: {ours_s:.0f} s, {ours_between:.2f} s between trials", flush=True)
    rows = []
    for name, command in peers.items():
        place = folder / name.split()[0].lower()
        trials = [TrialDir(place / f"{number:04d}") for number in range(count)]
        for trial, same in zip(trials, ours, strict=True):
            trial.create(same.read_spec())
        wall_s = _run_peer(place, [*command, str(place), str(count)])
        between = _between(trials)
        print(f"{name}: {wall_s:.0f} s, {between:.2f} s between trials", flush=True)
        case = f"demo, 2 epochs, {count} trials of {_LAYOUT.world_size} ranks"
        rows.append(Row(f"wall time: {name} with a subprocess / ours", case, wall_s / ours_s, ">= 2"))
        rows.append(Row(f"trial's end to next one's first step: {name} / ours", case, between / ours_between, ">= 2"))
    return rows


def _measure_empty_trials(folder: Path, count: int, peers: dict[str, list[str]], option: str) -> list[Row]:
    """Trials that train nothing: what asking, storing and telling costs; with --asha, what judging does."""
    rows = []
    for trials in (1, count):
        place = folder / f"{option.strip('-')}-{trials}"
        case = f"{trials} empty trials{f' of {EPOCHS} epochs under ASHA' * (option == '--asha')}"
        ours = [sys.executable, "-m", "tests.bench.peers.our_driver", str(place), str(trials), option]
        ours_s = _run(ours, dict(os.environ))
        print(f"{case}: ours {ours_s:.1f} s", flush=True)
        for name, command in peers.items():
            peers_place = place / name.split()[0].lower()
            peers_place.mkdir(parents=True, exist_ok=True)
            wall_s = _run_peer(peers_place, [*command, str(peers_place), str(trials), option])
            print(f"{case}: {name} {wall_s:.1f} s", flush=True)
            rows.append(Row(f"wall time: {name} / ours without ranks", case, wall_s / ours_s))
    return rows


def _run_study(runs_dir: Path, trials: int) -> float:
    settings = {
        "study.name": "peers",
        "study.trials": trials,
        "study.runs_dir": runs_dir,
        "training.epochs": 2,
        "batch_policy.switch_epoch": 1,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return _run([sys.executable, "study/run.py", *words], dict(os.environ))


def _run_peer(place: Path, command: Sequence[str]) -> float:
    # The launcher's words, but for the trial's folder, which comes last.
    request = AttemptRequest(place, 0, 1, _LAYOUT, _SITE.launcher, environment=_SITE.rank_environment)
    program = (sys.executable, "-m", "trainers", f"--threads={_LAYOUT.cpus_per_rank}")
    argv = launcher(_SITE.launcher).argv(_LAYOUT, program, _SITE.launcher_options)
    launch = {"argv": list(argv), "environment": rank_environment(request, os.environ)}
    (place / "launch.json").write_text(json.dumps(launch))
    # Nothing of ours is on the peer's path.
    return _run(command, {name: value for name, value in os.environ.items() if name != "PYTHONPATH"})


def _run(command: Sequence[str], environment: dict[str, str]) -> float:
    started_s = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return time.monotonic() - started_s


def _between(trials: Sequence[TrialDir]) -> float:
    """Median seconds from a trial's result to the first training step of the next one, by the files of their ranks."""
    attempts = [trial.attempt(1) for trial in trials]
    ends = [(attempt.path / "result.json").stat().st_mtime for attempt in attempts]
    first_steps = []
    for attempt in attempts:
        epochs = attempt.read_metrics()
        ended = (attempt.path / "metrics.jsonl").stat().st_mtime
        first_steps.append(ended - sum(epoch.wall_s for epoch in epochs) + epochs[0].first_batch_s)
    return median(step - end for step, end in zip(first_steps[1:], ends, strict=False))


if __name__ == "__main__":
    main()
