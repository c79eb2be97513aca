"""What a study's database holds, and the only place that writes it.

Stock Optuna and optuna-dashboard read all of it. A database that is away for a while is waited for: the trials train
on, and their epochs wait in files.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any, TypeVar

import optuna
import tenacity
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cluster.attempt import AttemptEnd
from storage.endpoint import describe_database_error, may_pass
from storage.records import EpochMetrics
from study.transitions import Tell

log = logging.getLogger(__name__)
Result = TypeVar("Result")

IDENTITY_KEY = "switchyard:config"
STUDY_DIR_KEY = "switchyard:study_dir"
# A maintenance restart of a database server takes minutes; a driver that gives up loses nothing but its allocations.
_PATIENCE_S = 900


class StudyMismatchError(ValueError):
    """The study in the database is not the one that the config describes."""


class DatabaseLostError(OSError):
    """The database has been away for too long, or refuses what it is given."""


def open_study(
    storage: BaseStorage, name: str, sampler_for: Callable[[int], optuna.samplers.BaseSampler], identity: dict[str, Any]
) -> optuna.Study:
    """Load the study, or create it with its identity.

    Args:
        sampler_for: From the number of trials that the study already has to its sampler.

    Raises:
        StudyMismatchError: The stored study searches something else.
    """
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    if name not in names:
        optuna.create_study(storage=storage, study_name=name, direction="maximize")
    study = optuna.load_study(storage=storage, study_name=name)
    if _is_blank(study):
        # New, or its driver died before this line.
        study.set_user_attr("objective", identity["study"]["objective"])
        study.set_user_attr(IDENTITY_KEY, identity)
    stored = study.user_attrs.get(IDENTITY_KEY)
    if stored is None:
        raise StudyMismatchError(
            f"the database has a study {name!r} that Switchyard did not make; choose another study.name."
        )
    if differences := _differences(stored, identity):
        raise StudyMismatchError(
            f"study {name!r} was started with another config: {'; '.join(differences)}. "
            "Trials of both would not compare: restore the values, or choose another study.name."
        )
    study.sampler = sampler_for(len(study.get_trials(deepcopy=False)))
    return study


def claim_study_dir(study: optuna.Study, study_dir: Path, database_dir: Path | None) -> None:
    """Tie the study in the database to the folder with its trials' files: another folder has no checkpoints of them,
    and its lock does not keep a second driver out.

    Args:
        database_dir: Of a database that is a file: it may be moved or copied together with the folder.

    Raises:
        StudyMismatchError: The trials' files lie in another folder, which still exists.
    """
    here = study_dir.resolve()
    stored = study.user_attrs.get(STUDY_DIR_KEY)
    claimed = here if stored is None else Path(os.path.normpath((database_dir or Path("/")) / stored))
    # One folder may have several names, such as those under which two login nodes mount it.
    if claimed.is_dir() and not (here.is_dir() and claimed.samefile(here)):
        raise StudyMismatchError(
            f"the files of study {study.study_name!r} are in {claimed}, not in {here}, and its driver may be at work "
            f"there: go on with --set study.runs_dir={claimed.parent}, or choose another study.name."
        )
    if stored is None or claimed != here:
        study.set_user_attr(STUDY_DIR_KEY, os.path.relpath(here, database_dir) if database_dir else str(here))


def _is_blank(study: optuna.Study) -> bool:
    """Whether nothing says that the study is somebody else's."""
    is_ours_by_its_direction = study.directions == [optuna.study.StudyDirection.MAXIMIZE]
    return is_ours_by_its_direction and IDENTITY_KEY not in study.user_attrs and not study.get_trials(deepcopy=False)


class Ledger:
    """One study's rows.

    Args:
        notice: Told what a person should know while the database is waited for.
        stop: Set when a person wants an end, which no waiting should delay.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, notice: Callable[[str], None], stop: Event) -> None:
        self._study, self._notice, self._stop = study, notice, stop
        # Optuna's own storage interface: a Trial object cannot overwrite an epoch that a lost attempt had reported.
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)

    def trials(self) -> list[FrozenTrial]:
        return self.patiently(lambda: self._study.get_trials(deepcopy=False))

    def reopen(self, number: int) -> optuna.Trial:
        """A running trial of an earlier driver, to be sampled to its end if that driver died in the middle."""
        return optuna.trial.Trial(self._study, self._trial_id(number))

    def record_epoch(self, number: int, metrics: EpochMetrics, objective: str) -> None:
        """Store the epoch's objective as the trial's intermediate value, over an earlier attempt's."""
        value = getattr(metrics, objective)
        self._write(
            number,
            lambda: self._storage.set_trial_intermediate_value(self._trial_id(number), metrics.epoch, value),
        )

    def record_epochs(self, number: int, epochs: Sequence[EpochMetrics], objective: str) -> None:
        """Store those epochs that are not stored yet as they are."""
        stored = self.patiently(lambda: self._storage.get_trial(self._trial_id(number)).intermediate_values)
        for metrics in epochs:
            if stored.get(metrics.epoch) != getattr(metrics, objective):
                self.record_epoch(number, metrics, objective)

    def record_attempts(self, number: int, ends: Sequence[AttemptEnd]) -> None:
        """Store what is known of a trial's attempts so far."""
        self._set_attributes(
            number,
            {"attempts": [{"end": str(e.kind), "exit_code": e.exit_code, "wall_s": round(e.wall_s, 3)} for e in ends]},
        )

    def record_end(self, number: int, tell: Tell, ends: Sequence[AttemptEnd], epochs: Sequence[EpochMetrics]) -> None:
        """Store all that the trial's attempts found out. The trial itself is told afterwards: it is frozen then."""
        self.record_attempts(number, ends)
        self._set_attributes(number, trial_attributes(tell, ends, epochs))

    def patiently(self, action: Callable[[], Result]) -> Result:
        """Run a database action that may be repeated, until the database answers.

        Raises:
            DatabaseLostError: It has not answered for 15 minutes or until the driver was asked to stop, or refuses for
                a reason that waiting does not cure.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_pass),
            wait=tenacity.wait_exponential(multiplier=0.5, max=15),
            stop=tenacity.stop_after_delay(_PATIENCE_S) | tenacity.stop_when_event_set(self._stop),
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=self._tell_of_wait,
            reraise=True,
        )
        try:
            return retrying(action)
        except (StorageInternalError, SQLAlchemyError) as error:
            reason = describe_database_error(error)
            if may_pass(error) and self._stop.is_set():
                reason = f"it did not answer when the driver was asked to stop: {reason}"
            elif may_pass(error):
                reason = f"it has not answered for {_PATIENCE_S // 60} minutes: {reason}"
            raise DatabaseLostError(
                f"database: {reason}. What is stored is safe and the trials under way pause: put it right and run the "
                "same command to go on."
            ) from error

    def _tell_of_wait(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            log.warning("database: %s; attempt %d", describe_database_error(error), state.attempt_number)
        if error is not None and state.attempt_number == 1:
            self._notice(f"The database does not answer, so its news waits: {describe_database_error(error)}.")

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _set_attributes(self, number: int, attributes: dict[str, Any]) -> None:
        def set_all() -> None:
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(self._trial_id(number), key, value)

        self._write(number, set_all)

    def _write(self, number: int, write: Callable[[], None]) -> None:
        """Patiently. A trial that a person has ended, as optuna-dashboard's buttons can, takes no more and stays so."""
        try:
            self.patiently(write)
        except UpdateFinishedTrialError:
            log.warning("trial %d: somebody else has ended it; its news is dropped", number)


def trial_attributes(tell: Tell, ends: Sequence[AttemptEnd], epochs: Sequence[EpochMetrics]) -> dict[str, Any]:
    """A finished trial's attributes, as JSON values. Pure."""
    attributes: dict[str, Any] = {
        "outcome": str(tell.outcome),
        "reason": tell.reason,
        "wall_s": round(sum(end.wall_s for end in ends), 3),
        "attempt_count": len(ends),
    }
    if epochs:
        attributes["f1_micro"], attributes["f1_macro"] = epochs[-1].f1_micro, epochs[-1].f1_macro
        attributes["images_per_s_by_batch_size"] = _mean_by_batch_size(epochs, "samples_per_s")
        attributes["epoch_s_by_batch_size"] = _mean_by_batch_size(epochs, "wall_s")
        for name in ("global_batch_size", "train_loss", "val_loss", "f1_macro", "samples_per_s", "wall_s"):
            attributes[f"epochs:{name}"] = [_finite(getattr(metrics, name)) for metrics in epochs]
    reports = [end.communicator for end in ends if end.communicator is not None]
    if reports:
        facts = dataclasses.asdict(reports[-1])
        attributes["hosts"] = sorted(set(facts.pop("hosts")))
        attributes["data_plane"] = facts.pop("data_plane")
        attributes["communicator"] = facts
    tails = [end.log_tail for end in ends if end.log_tail]
    if tails:
        attributes["log_tail"] = tails[-1]
    return attributes


def _mean_by_batch_size(epochs: Sequence[EpochMetrics], field: str) -> dict[str, float]:
    """Mean of a field over the epochs of each global batch size: one entry per phase of the training."""
    phases: dict[int, list[float]] = defaultdict(list)
    for metrics in epochs:
        phases[metrics.global_batch_size].append(getattr(metrics, field))
    return {str(size): round(fmean(values), 4) for size, values in phases.items()}


def _finite(value: float) -> float | None:
    """JSON has no NaN, and the dashboard's parser refuses it."""
    return value if math.isfinite(value) else None


def _differences(stored: Any, current: Any, where: str = "") -> list[str]:
    """Each value that differs between two nested dicts, in words."""
    if isinstance(stored, dict) and isinstance(current, dict):
        keys = sorted(stored.keys() | current.keys())
        return [
            d for key in keys for d in _differences(stored.get(key), current.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if stored == current else [f"{where} is {stored!r} in the database, {current!r} now"]


def is_finished(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
