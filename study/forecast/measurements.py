"""What earlier trials say of how long things take: epochs and starts, read from the database.

A forecast is only as good as its likeness to what was measured, so what differs in model, data, precision, threads or
data plane does not count. Numbers of ranks and batch sizes may differ: carrying over from one to the other is what the
model is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from sqlalchemy import URL

from storage.database import schema
from storage.database.endpoint import as_storage_errors, open_existing_study
from storage.database.schema import TrialRecord
from study.config import StudyConfig
from study.finding import find_study, place_of
from study.finished_trials import record_of
from study.forecast.performance_model import Placement
from study.plan import StudyPlan

# Of [training]: what changes how long an update takes, or what an epoch does beside updates.
_TIMED_SETTINGS = (
    "loader_batch_size",
    "accumulation_steps",
    "precision",
    "jit",
    "moving_statistics",
    "deterministic",
)


class ForecastError(ValueError):
    """There is nothing to make a forecast from. The message says what to run."""


@dataclass(frozen=True)
class MeasuredEpoch:
    """One epoch of a trial."""

    placement: Placement
    global_batch_size: int
    samples_per_s: float
    """Training throughput over all ranks."""
    wall_s: float
    """Evaluation and checkpoint included."""


@dataclass(frozen=True)
class MeasuredStart:
    """What an attempt took beside its epochs, on average over those of one trial."""

    placement: Placement
    start_s: float


@dataclass(frozen=True)
class Measurements:
    epochs: tuple[MeasuredEpoch, ...] = ()
    starts: tuple[MeasuredStart, ...] = ()

    def __add__(self, other: Measurements) -> Measurements:
        return Measurements(self.epochs + other.epochs, self.starts + other.starts)


@dataclass(frozen=True)
class Conditions:
    """Under which a study trains: a trial that was measured under others says nothing of its times.

    Args:
        cores: Of this machine, which the ranks share where the site has no jobs; None: each thread has its own.
    """

    components: dict[str, Any]
    threads_per_rank: int
    data_plane: str
    cores: int | None

    @classmethod
    def of(cls, plan: StudyPlan, cores: int) -> Conditions:
        shared = None if plan.site.slurm is not None else cores
        return cls(_components(plan.identity()), plan.layout.cpus_per_rank, plan.site.backend, shared)

    def placement(self, ranks: int, nodes: int) -> Placement:
        shared = 1.0 if self.cores is None else max(1.0, ranks * self.threads_per_rank / self.cores)
        return Placement(ranks, nodes, shared)

    def differences(self, identity: dict[str, Any]) -> list[str]:
        """What differs in a study that was measured, by the names of its config."""
        other = _components(identity)
        return [name for name, value in self.components.items() if other.get(name) != value]

    def measured(self, record: TrialRecord) -> Measurements:
        """What a trial of an alike study says; nothing if its ranks ran otherwise."""
        facts, sizes = record.communicator, record.curves.get("global_batch_size", [])
        ranks, threads = facts.get("world_size", 0), facts.get("threads_per_rank")
        if not ranks or threads != self.threads_per_rank or record.data_plane != self.data_plane:
            return Measurements()
        placement = self.placement(ranks, max(1, len(record.hosts)))
        rates, walls = record.curves.get("samples_per_s", []), record.curves.get("wall_s", [])
        epochs = tuple(
            MeasuredEpoch(placement, int(size), rate, wall_s)
            for size, rate, wall_s in zip(sizes, rates, walls, strict=False)
            if size and rate and wall_s
        )
        if not epochs:
            return Measurements()
        start_s = (record.wall_s - sum(epoch.wall_s for epoch in epochs)) / max(1, record.attempt_count)
        return Measurements(epochs, (MeasuredStart(placement, max(0.0, start_s)),))


def _components(identity: dict[str, Any]) -> dict[str, Any]:
    defaults = StudyConfig.identity_defaults()["training"]
    training = {name: identity["training"].get(name, defaults.get(name)) for name in _TIMED_SETTINGS}
    # Where the data lie is no part of how they are read.
    dataset = {name: value for name, value in identity["dataset"].items() if name != "path"}
    named = {f"training.{name}": value for name, value in training.items()}
    # Of a trial whose ranks grow, the database says how many the last epoch had.
    named["resources.nodes_per_rung"] = list(identity.get("resources", {}).get("nodes_per_rung", []))
    return {"model": identity["model"], "dataset": dataset, "optimizer": identity["optimizer"]["name"], **named}


def measured_earlier(plan: StudyPlan, conditions: Conditions, earlier: Sequence[str]) -> Measurements:
    """What the finished trials of earlier studies say.

    Args:
        earlier: STUDY or STUDY@URL, as --forecast-from has them.

    Raises:
        StorageError: There is no such database or study.
        ForecastError: An earlier study has no trial that was trained alike.
    """
    found = Measurements()
    for source in earlier:
        name, url = place_of(source, "--forecast-from", plan.config.study.runs_dir)
        found += _of_earlier(open_existing_study(url, name), url, conditions, f"--forecast-from {name}")
    return found


def measured_so_far(plan: StudyPlan, conditions: Conditions) -> tuple[Measurements, int]:
    """What the study's own finished trials say, and how many there are; nothing if it has not begun.

    Raises:
        StorageError: The database cannot be used.
    """
    own = find_study(plan.database, plan.name)
    if own is None or schema.STUDY_CONFIG not in own.user_attrs:
        return Measurements(), 0
    with as_storage_errors(plan.database):
        finished = sum(trial.state.is_finished() for trial in own.get_trials(deepcopy=False))
    return _of_study(own, plan.database, conditions), finished


def _of_earlier(study: optuna.Study, url: URL, conditions: Conditions, where: str) -> Measurements:
    identity = study.user_attrs.get(schema.STUDY_CONFIG)
    if identity is None:
        raise ForecastError(f"{where}: Switchyard did not make this study; name another one.")
    if differences := conditions.differences(identity):
        raise ForecastError(f"{where}: it was trained with another {', '.join(differences)}; name another study.")
    found = _of_study(study, url, conditions)
    if not found.epochs:
        raise ForecastError(
            f"{where}: no finished trial of it trained with {conditions.threads_per_rank} threads a rank over "
            f"{conditions.data_plane}, as this study would; name another one."
        )
    return found


def _of_study(study: optuna.Study, url: URL, conditions: Conditions) -> Measurements:
    with as_storage_errors(url):
        records = [record_of(trial) for trial in study.get_trials(deepcopy=False)]
    return sum((conditions.measured(record) for record in records if record is not None), Measurements())
