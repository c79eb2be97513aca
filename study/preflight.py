"""Tries what every trial of a study shares, before anything is stored or submitted."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from cluster.attempt import trainer_environment
from cluster.diagnosis import cause
from storage.protocol.codec import RecordError, from_json
from storage.protocol.energy import RAPL, EnergyReading
from storage.protocol.files import write_atomically
from storage.protocol.records import spec_sha256
from storage.protocol.trial_dir import TrialDir
from storage.protocol.workload import WORKLOAD_FILE, Workload
from study.config import ConfigError
from study.objectives import ENERGY
from study.plan import StudyPlan
from study.search_space import Choices

_ROOT = Path(__file__).resolve().parent.parent
_TRAINERS = _ROOT / "trainers"
_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Of a specification: what makes no difference to model, optimizer, data set and step.
_NOT_BUILT = (
    "study_name",
    "seed",
    "epochs",
    "objective",
    "objective_epoch",
    "patience",
    "test_split",
    "cache_dir",
    "checkpoint_every_epochs",
)
# TensorFlow's start on a busy login node, the decoding of a data set that no trial has used yet, and a step.
_WITHIN_S = 3600
_ENERGY_WITHIN_S = 120


def check(plan: StudyPlan, say: Callable[[str], None], build: bool = True) -> tuple[Workload, ...]:
    """Have the trainer check data set, splits and batch sizes, and build a trial and make one update, in a process of
    its own. What has been built once is not built again until it changes. Gives each different workload of a trial.

    Args:
        say: Told how long it took to build.
        build: Without it, everything that needs no TensorFlow.

    Raises:
        ConfigError: With the trainer's own words.
    """
    if plan.config.study.needs_energy:
        _require_energy(plan)
    with tempfile.TemporaryDirectory(prefix="switchyard-preflight-") as scratch:
        trials = []
        for number, sampled in enumerate(_samples(plan)):
            trials.append(TrialDir(Path(scratch) / str(number)))
            trials[-1].create(plan.spec(0, sampled, study_uuid=""))
        fingerprint = _fingerprint(trials[0], plan.code_sha256())
        built = plan.config.study.cache_dir / "preflight" / f"{fingerprint}.json"
        must_build = build and not built.exists()
        started_s = time.monotonic()
        _run(plan, [trial.path for trial in trials], must_build)
        if must_build:
            seconds = round(time.monotonic() - started_s, 1)
            say(f"model, optimizer and data set were built and made one update: {seconds} s, once for this config")
            built.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(built, json.dumps({"seconds": seconds}).encode())
        found = [from_json(Workload, (trial.path / WORKLOAD_FILE).read_text()) for trial in trials]
    return tuple(workload for index, workload in enumerate(found) if workload not in found[:index])


def _run(plan: StudyPlan, folders: list[Path], build: bool) -> None:
    command = [sys.executable, "-m", "trainers.preflight", *map(str, folders)]
    memory = _memory_of_a_rank(plan)
    options = (["--build"] if build else []) + ([] if memory is None else [f"--memory-per-rank={memory}"])
    try:
        done = subprocess.run(
            [*command, *options],
            env=trainer_environment(os.environ, plan.code_folders.paths),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"model and data set were not built within {_WITHIN_S // 60} minutes") from None
    if done.returncode:
        raise ConfigError(cause(done.stderr) or f"the preflight ended with exit code {done.returncode}")


def _require_energy(plan: StudyPlan) -> None:
    """Refuse a study that goes by an energy that nobody will measure, as far as this machine can tell.

    Raises:
        ConfigError: With what is missing.
    """
    why = "" if find_spec("perun") else "perun is not installed (the extra `energy`)"
    # On nodes and of GPUs, the ranks find out, before epoch 0.
    if not why and plan.site.slurm is None and not plan.site.gpus_per_node:
        reading = _read_energy(plan)
        why = "" if RAPL in reading.joules else reading.missing.get(RAPL, "there is no counter")
    if why:
        raise ConfigError(
            f"the study goes by {ENERGY}, which cannot be measured here: {why}; docs/energy.md says what it takes, or "
            f"leave {ENERGY} out"
        )


def _read_energy(plan: StudyPlan) -> EnergyReading:
    """What the ranks' own sampler says on this machine."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainers.energy"],
            env=trainer_environment({**os.environ, **plan.rank_environment}, plan.code_folders.paths),
            input="\n",
            capture_output=True,
            text=True,
            timeout=_ENERGY_WITHIN_S,
        )
        return from_json(EnergyReading, done.stdout)
    except (subprocess.TimeoutExpired, RecordError) as error:
        return EnergyReading(missing={RAPL: f"its sampler does not answer: {error}"})


def _memory_of_a_rank(plan: StudyPlan) -> float | None:
    """In bytes; None where nobody can say."""
    if plan.site.slurm is None:
        return psutil.virtual_memory().available / (plan.slots * plan.layout.ranks_per_node)
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", plan.site.slurm.memory_per_node or "")
    if match is None or int(match[1]) == 0:
        return None
    return int(match[1]) * _UNITS[match[2]] / plan.layout.ranks_per_node


def _fingerprint(trial: TrialDir, code_sha256: str) -> str:
    """Of what is built, and of the code that builds it: the trainer's and a person's own."""
    spec = json.loads((trial.path / "spec.json").read_text()) | dict.fromkeys(_NOT_BUILT)
    digest = hashlib.sha256((spec_sha256(json.dumps(spec)) + code_sha256).encode())
    for path in sorted(_TRAINERS.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _samples(plan: StudyPlan) -> Iterator[dict[str, Any]]:
    """One configuration, and with it each other choice, or the other end of the range, of what is checked here."""
    space = plan.config.search_space
    values = {
        name: parameter.choices if isinstance(parameter, Choices) else (parameter.low, parameter.high)
        for name, parameter in space.parameters().items()
    }
    first = {name: among[0] for name, among in values.items()}
    yield first
    for name in [*space.dataset, *space.batch_policy]:
        yield from (first | {name: value} for value in values[name][1:])
