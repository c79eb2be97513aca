"""A study's rows as frozen values. What is malformed in one trial is noted there; the others are read all the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL

from storage.database import schema
from storage.database.endpoint import as_storage_errors, open_existing_study, parse_public_url, public_url
from storage.database.schema import AttemptRow, Opening, TrialRecord
from storage.protocol.codec import RecordError, from_plain
from storage.protocol.records import ClassScores, Outcome, SplitScores
from study.objectives import Objective, keeps_to_constraints, pareto_front

DEFAULT_OBJECTIVE = "f1_micro"


class ReportError(ValueError):
    """There is nothing to report on, or it cannot be compared. The message says what to do."""


@dataclass(frozen=True)
class Trial:
    """One trial, as far as its rows can be read."""

    number: int
    state: str
    """Optuna's, in lower case: running, complete, fail, waiting or pruned."""
    parameters: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    value: float | None
    """The objective; 0 of a trial that diverged."""
    values: tuple[float, ...] = ()
    """Of all objectives, that one first."""
    keeps_to_constraint: bool = True
    record: TrialRecord | None = None
    """None of a trial that is not over, or whose rows are malformed."""
    classes: ClassScores | None = None
    test: SplitScores | None = None
    attempts: tuple[AttemptRow, ...] = ()
    started: datetime | None = None
    ended: datetime | None = None
    objective_by_epoch: Mapping[int, float] = field(default_factory=dict)
    problem: str = ""
    """What is malformed, in words."""

    @property
    def is_completed(self) -> bool:
        """Whether it trained to the end, did not diverge and has scores."""
        return self.state == "complete" and self.record is not None and self.record.is_completed

    @property
    def is_over(self) -> bool:
        return self.state in ("complete", "fail", "pruned")

    @property
    def outcome(self) -> str:
        """What became of it, in a word or two."""
        if self.problem:
            return "malformed"
        if self.record is not None:
            return self.record.outcome
        return "unfinished" if self.state == "running" else self.state

    @property
    def batch_sizes(self) -> list[int]:
        """The global batch size of each epoch."""
        curve = self.record.curves.get("global_batch_size", []) if self.record else []
        return [int(size) for size in curve if size is not None and math.isfinite(size)]

    def score(self, name: str) -> float | None:
        """A validation score in the epoch that counts; None where it was not measured."""
        if self.record is None:
            return None
        named = {"f1_micro": self.record.f1_micro, "f1_macro": self.record.f1_macro}
        return self.record.scores.get(name, named.get(name))


@dataclass(frozen=True)
class Configuration:
    """The trials that have the same parameters."""

    parameters: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def key(self) -> str:
        return configuration_key(self.parameters)

    @property
    def completed(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.is_completed)

    @property
    def keeps_to_constraint(self) -> bool:
        """Whether all of its completed trials do."""
        return all(trial.keeps_to_constraint for trial in self.completed)

    def scores(self, name: str) -> list[float]:
        """A validation score of each completed trial that has it."""
        return [score for trial in self.completed if (score := trial.score(name)) is not None]

    def mean(self, name: str) -> float | None:
        """The mean of a validation score over the completed trials."""
        values = self.scores(name)
        return math.fsum(values) / len(values) if values else None

    @property
    def mean_wall_s(self) -> float | None:
        walls = [trial.record.wall_s for trial in self.completed if trial.record is not None]
        return math.fsum(walls) / len(walls) if walls else None


@dataclass(frozen=True)
class Switch:
    """A change of the global batch size, and in how many trials it happened there."""

    epoch: int
    """The first one with the new size, from 0."""
    before: int
    after: int
    trials: int


@dataclass(frozen=True)
class Arm:
    """One study: an arm of an experiment."""

    name: str
    storage: str
    """The database's URL without password."""
    uuid: str | None
    config: Mapping[str, Any]
    """The study's identity; empty where nothing has been stored."""
    objective: str
    trials: tuple[Trial, ...]
    openings: tuple[Opening, ...] = ()
    problem: str = ""
    """What of the study's own rows is malformed."""

    @cached_property
    def completed(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.is_completed)

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """Of the trials that are over and can be read."""
        return tuple(trial.record for trial in self.trials if trial.record is not None)

    @property
    def unfinished(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if not trial.is_over)

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """In the order of their first trials; those whose driver died before sampling have none."""
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.parameters:
                groups.setdefault(configuration_key(trial.parameters), []).append(trial)
        return tuple(Configuration(group[0].parameters, tuple(group)) for group in groups.values())

    @cached_property
    def best(self) -> Configuration | None:
        """The configuration with the highest mean objective over its completed trials that keeps to the constraint."""
        scored = [c for c in self.configurations if c.keeps_to_constraint and c.mean(self.objective) is not None]
        return max(scored, key=lambda c: c.mean(self.objective) or 0.0, default=None)

    @property
    def objective_epoch(self) -> str:
        """Which epoch's score counts: last or best. Older studies knew the last one only."""
        return str(_table(self.config, "study").get("objective_epoch", "last"))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All that it optimises, `objective` first."""
        named = _table(self.config, "study").get("objectives") or [self.objective]
        return tuple(Objective.parse(str(name)) for name in named)

    @property
    def front(self) -> list[Trial]:
        """The Pareto front of several objectives, best first; empty where there is one."""
        objectives = self.objectives
        # A trial that somebody else has told may have other values.
        eligible = [t for t in self.completed if t.keeps_to_constraint and len(t.values) == len(objectives)]
        return pareto_front(eligible, objectives) if len(objectives) > 1 else []

    @property
    def policy(self) -> str:
        """The name of the batch policy."""
        return str(_table(self.config, "batch_policy").get("name", "unknown"))

    @property
    def dataset(self) -> str:
        return str(_table(self.config, "dataset").get("name", "unknown"))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """All global batch sizes that were trained with, in the order of their first epochs."""
        first: dict[int, int] = {}
        for trial in self.trials:
            for epoch, size in enumerate(trial.batch_sizes):
                first[size] = min(epoch, first.get(size, epoch))
        return tuple(sorted(first, key=lambda size: (first[size], size)))

    @property
    def switches(self) -> tuple[Switch, ...]:
        """The changes of the batch size, those of the most trials first."""
        counts: dict[tuple[int, int, int], int] = {}
        for trial in self.trials:
            sizes = trial.batch_sizes
            for epoch in range(1, len(sizes)):
                if sizes[epoch] != sizes[epoch - 1]:
                    change = (epoch, sizes[epoch - 1], sizes[epoch])
                    counts[change] = counts.get(change, 0) + 1
        return tuple(Switch(*change, trials=count) for change, count in sorted(counts.items(), key=lambda c: -c[1]))

    @property
    def nodes(self) -> int | None:
        """Nodes of a trial, from what its attempts cost; None before one has ended."""
        for trial in self.trials:
            if trial.record is not None and trial.record.wall_s > 0 and trial.record.node_hours > 0:
                return max(1, round(trial.record.node_hours * 3600 / trial.record.wall_s))
        return None

    @property
    def node_hours(self) -> float:
        """Of all attempts, lost ones and those of unfinished trials included."""
        return math.fsum(self._node_hours_of(trial) for trial in self.trials)

    @property
    def lost_node_hours(self) -> float:
        """Of the attempts that ended in a failure. At most this is lost: the next one went on from a checkpoint."""
        lost = [row.wall_s for trial in self.trials for row in trial.attempts if is_lost(row)]
        return math.fsum(lost) * (self.nodes or 1) / 3600

    @property
    def elapsed_s(self) -> float | None:
        """From the first trial's start to the last one's end, pauses of the driver included."""
        starts = [trial.started for trial in self.trials if trial.started is not None]
        ends = [trial.ended for trial in self.trials if trial.ended is not None]
        return max((max(ends) - min(starts)).total_seconds(), 0.0) if starts and ends else None

    def _node_hours_of(self, trial: Trial) -> float:
        if trial.record is not None:
            return trial.record.node_hours
        return math.fsum(row.wall_s for row in trial.attempts) * (self.nodes or 1) / 3600


def is_lost(row: AttemptRow) -> bool:
    """Whether an attempt ended by a failure and not on purpose."""
    return row.end not in set(Outcome)


def configuration_key(parameters: Mapping[str, Any]) -> str:
    """What tells one configuration from another: floats to their last digit."""
    return json.dumps(dict(parameters), sort_keys=True, default=str)


def config_sha256(arm: Arm) -> str:
    """Of the study's identity, by its text."""
    return hashlib.sha256(json.dumps(dict(arm.config), sort_keys=True, default=str).encode()).hexdigest()


def load_arms(names: Sequence[str], storage: str | None, runs_dir: Path) -> list[Arm]:
    """Read studies.

    Args:
        storage: The database of all of them; None: each one's own SQLite file under `runs_dir`.

    Raises:
        StorageError: There is no such database or study.
        ReportError: A study is not one of Switchyard's, or is named twice.
    """
    if twice := [name for name in names if names.count(name) > 1]:
        raise ReportError(f"study {twice[0]!r} is named twice; name each study once.")
    return [_load(name, storage, runs_dir) for name in names]


def _load(name: str, storage: str | None, runs_dir: Path) -> Arm:
    url = parse_public_url(storage or f"sqlite:///{runs_dir / name / 'study.db'}", "--storage")
    study = open_existing_study(url, name)
    with as_storage_errors(url):
        return read_arm(study, url)


def read_arm(study: optuna.Study, url: URL) -> Arm:
    """A study's rows.

    Raises:
        ReportError: It minimises, so it is not one of Switchyard's.
    """
    attributes, problems = study.user_attrs, []
    config = attributes.get(schema.STUDY_CONFIG)
    # One that has several objectives says so; of one that has one, no row but its trials' is needed.
    several = _table(config, "study").get("objectives") if isinstance(config, dict) else None
    if study.directions[0] is not StudyDirection.MAXIMIZE or len(study.directions) != len(several or [""]):
        raise ReportError(f"study {study.study_name!r} does not maximise one score, so Switchyard did not make it.")
    if not isinstance(config, dict):
        problems.append("its config is not stored")
    try:
        openings = tuple(schema.read_openings(attributes))
    except RecordError as error:
        openings = ()
        problems.append(str(error))
    uuid = attributes.get(schema.STUDY_UUID)
    return Arm(
        name=study.study_name,
        storage=public_url(url),
        uuid=uuid if isinstance(uuid, str) else None,
        config=config if isinstance(config, dict) else {},
        objective=str(attributes.get(schema.OBJECTIVE, DEFAULT_OBJECTIVE)),
        trials=tuple(_read_trial(trial) for trial in study.get_trials(deepcopy=False)),
        openings=openings,
        problem="; ".join(problems),
    )


def _read_trial(trial: FrozenTrial) -> Trial:
    problems, record, classes, test = [], None, None, None
    attempts: tuple[AttemptRow, ...] = ()
    attributes = trial.user_attrs
    try:
        attempts = tuple(schema.read_attempts(attributes))
    except (RecordError, TypeError) as error:
        problems.append(f"its attempts cannot be read: {error}")
    if trial.state.is_finished():
        try:
            record = _checked(TrialRecord.read(attributes))
            if record is not None:
                classes, test = _classes(record), _test(record)
        except RecordError as error:
            record = None
            problems.append(str(error))
    return Trial(
        number=trial.number,
        state=trial.state.name.lower(),
        parameters=dict(trial.params),
        distributions=dict(trial.distributions),
        value=trial.values[0] if trial.values else None,
        values=tuple(trial.values or ()),
        keeps_to_constraint=keeps_to_constraints(trial),
        record=record,
        classes=classes,
        test=test,
        attempts=attempts,
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        objective_by_epoch={e: v for e, v in trial.intermediate_values.items() if math.isfinite(v)},
        problem="; ".join(problems),
    )


def _checked(record: TrialRecord | None) -> TrialRecord | None:
    """The record, if what its types cannot say holds as well."""
    if record is None:
        return None
    numbers: dict[str, float | None] = {"wall_s": record.wall_s, "node_hours": record.node_hours, **record.scores}
    if record.energy_j is not None:
        numbers |= {"energy_j": record.energy_j, "energy_repeated_j": record.energy_repeated_j or 0.0}
    if record.is_completed:
        numbers |= {"f1_micro": record.f1_micro, "f1_macro": record.f1_macro}
    for name, value in numbers.items():
        if value is None or not math.isfinite(value):
            raise RecordError(f"TrialRecord.{name} is {value!r}; it must be a finite number.")
    for name in ("images_per_s_by_batch_size", "epoch_s_by_batch_size", "energy_j_by_batch_size"):
        for size, value in getattr(record, name).items():
            if not size.isdecimal() or not math.isfinite(value):
                raise RecordError(f"TrialRecord.{name} has {size!r}: {value!r}; it must be a batch size and a number.")
    if len({len(curve) for curve in record.curves.values()}) > 1:
        raise RecordError("TrialRecord.curves have different numbers of epochs.")
    return record


def _classes(record: TrialRecord) -> ClassScores | None:
    return _consistent(from_plain(ClassScores, record.classes, ignore_unknown=True)) if record.classes else None


def _test(record: TrialRecord) -> SplitScores | None:
    if not record.test:
        return None
    test = from_plain(SplitScores, record.test, ignore_unknown=True)
    _consistent(test.classes)
    return test


def _consistent(classes: ClassScores) -> ClassScores:
    count = len(classes.names)
    for name in ("samples", "precision", "recall", "f1", "average_precision"):
        if len(getattr(classes, name)) != count:
            raise RecordError(f"ClassScores.{name} has {len(getattr(classes, name))} entries for {count} classes.")
    if classes.confusion and {len(classes.confusion), *map(len, classes.confusion)} != {count}:
        raise RecordError(f"ClassScores.confusion is not {count} x {count}.")
    return classes


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}
