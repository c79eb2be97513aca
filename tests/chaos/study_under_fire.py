"""The study whose processes are killed, and what it is compared with."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import psutil
from optuna.trial import FrozenTrial, TrialState

from storage.database.schema import VerdictRow, read_verdicts
from tests.study.driver import RunningDriver, Workplace, new_workplace
from tests.waiting import wait_until

RANKS = 2
_SETTINGS = (
    "--deterministic",
    "--set",
    "dataset.train=512",
    "--set",
    "batch_policy.switch_epoch=6",
    # Kills come as they come: no trial is given up for it.
    "--set",
    "study.interruption_retries=1000",
)
_LOOKS_AGAIN_S = 0.2
_ENDS_WITHIN_S = 3600


class Victim(StrEnum):
    DRIVER = "driver"
    SUPERVISOR = "supervisor"
    LAUNCHER = "mpirun"
    RANK = "rank"


@dataclass(frozen=True)
class Kill:
    """One SIGKILL."""

    victim: Victim
    trial: int
    attempt: int
    epochs_done: int
    """Of the trial under way, at that moment; -1 if its ranks had not met."""


@dataclass
class Outcome:
    """How a study under fire ended."""

    kills: list[Kill]
    drivers: int
    """Commands that it took."""
    exit_code: int
    output: str
    workplace: Workplace
    wall_s: float

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.workplace.trials()

    def differences(self, undisturbed: Workplace) -> list[str]:
        """What is not as in the study that was left alone; nothing, if all is well."""
        found = []
        expected = undisturbed.trials()
        if len(self.trials) != len(expected):
            found.append(f"{len(self.trials)} trials, not {len(expected)}")
        for ours, theirs in zip(self.trials, expected, strict=False):
            if ours.state is TrialState.FAIL:
                found.append(f"trial {ours.number} has failed: {ours.user_attrs.get('reason')}")
            found += [
                f"trial {ours.number}: {what} is {getattr(ours, what)}, not {getattr(theirs, what)}"[:500]
                for what in ("number", "state", "params", "values", "intermediate_values")
                if getattr(ours, what) != getattr(theirs, what)
            ]
            if _verdicts(ours) != _verdicts(theirs):
                found.append(f"trial {ours.number}: its verdicts are {_verdicts(ours)}, not {_verdicts(theirs)}")
            if ours.state is TrialState.COMPLETE:
                found += _different_weights(self.workplace, undisturbed, ours.number)
        return found

    def table(self) -> str:
        """What was killed and when, as Markdown."""
        phases = Counter((kill.victim, _phase(kill)) for kill in self.kills)
        lines = ["| killed | while starting | while training | in all |", "|---|---:|---:|---:|"]
        for victim in Victim:
            starting, training = (phases[victim, phase] for phase in ("starting", "training"))
            lines.append(f"| {victim} | {starting} | {training} | {starting + training} |")
        return "\n".join(lines)


@dataclass
class StudyUnderFire:
    """Kills, until there have been enough, and then lets the study end."""

    folder: Path
    trials: int
    epochs: int
    seed: int
    mean_pause_s: float
    overrides: Sequence[str] = ()
    """Of the study's config, as KEY=VALUE."""
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.workplace = place(self.folder, self.trials, self.epochs, self.overrides)

    def run(self, kills: int) -> Outcome:
        began_s, drivers = time.monotonic(), 0
        while True:
            drivers += 1
            with self.workplace.start(waits_for_ranks=False) as driver:
                while driver.is_running() and len(self.kills) < kills:
                    self._wait(driver)
                    self._kill_one(driver)
                exit_code = driver.process.wait(_ENDS_WITHIN_S)
            if exit_code >= 0:
                return self._outcome(drivers, exit_code, driver.output, began_s)

    def _outcome(self, drivers: int, exit_code: int, output: str, began_s: float) -> Outcome:
        return Outcome(self.kills, drivers, exit_code, output, self.workplace, time.monotonic() - began_s)

    def _wait(self, driver: RunningDriver) -> None:
        """A random time, or until the driver has ended."""
        until_s = time.monotonic() + self._random.expovariate(1 / self.mean_pause_s)

        def is_over() -> bool:
            return not driver.is_running() or time.monotonic() >= until_s

        wait_until(is_over, within_s=3600, pause_s=_LOOKS_AGAIN_S)

    def _kill_one(self, driver: RunningDriver) -> None:
        if not driver.is_running():
            return
        victims = {Victim.DRIVER: [driver.process]} | _processes(self.workplace)
        victim = self._random.choice([kind for kind in Victim if victims.get(kind)])
        process = self._random.choice(victims[victim])
        kill = self._describe(victim)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            return
        self.kills.append(kill)

    def _describe(self, victim: Victim) -> Kill:
        trials = sorted((self.workplace.study_dir / "trials").glob("[0-9]*"))
        if not trials:
            return Kill(victim, 0, 0, -1)
        trial = self.workplace.trial_dir(int(trials[-1].name))
        attempt = trial.newest_attempt()
        if attempt is None:
            return Kill(victim, int(trials[-1].name), 0, -1)
        has_met = attempt.read_communicator() is not None
        return Kill(victim, int(trials[-1].name), attempt.number, len(attempt.read_metrics()) if has_met else -1)


def place(folder: Path, trials: int, epochs: int, overrides: Sequence[str] = ()) -> Workplace:
    """A folder for a study of these configurations.

    Args:
        overrides: Of its config, as KEY=VALUE.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = [word for override in (f"training.epochs={epochs}", *overrides) for word in ("--set", override)]
    options = (*_SETTINGS, "--trials", str(trials), *settings)
    return new_workplace(folder, *options, ranks=RANKS)


def _processes(workplace: Workplace) -> dict[Victim, list[psutil.Process]]:
    found: dict[Victim, list[psutil.Process]] = {}
    for process in workplace.rank_processes():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "cluster.supervisor" in words:
            kind = Victim.SUPERVISOR
        elif Path(words[0]).name in ("mpirun", "prterun"):
            kind = Victim.LAUNCHER
        elif words[1:3] == ["-m", "trainers"]:
            kind = Victim.RANK
        else:
            continue
        found.setdefault(kind, []).append(process)
    return found


def _verdicts(trial: FrozenTrial) -> list[VerdictRow]:
    return read_verdicts(trial.user_attrs)


def _phase(kill: Kill) -> str:
    return "starting" if kill.epochs_done < 0 else "training"


def _different_weights(ours: Workplace, theirs: Workplace, trial: int) -> list[str]:
    arrays = []
    for workplace in (ours, theirs):
        checkpoints = workplace.trial_dir(trial).checkpoints()
        if not checkpoints:
            return [f"trial {trial} has no checkpoint in {workplace.folder}"]
        with np.load(checkpoints[0]) as checkpoint:
            arrays.append({name: checkpoint[name] for name in checkpoint.files if name not in ("progress", "owner")})
    first, second = arrays
    return [
        f"trial {trial}: the weights {name} differ"
        for name in sorted(first.keys() | second.keys())
        if name not in first or name not in second or not np.array_equal(first[name], second[name])
    ]
