"""The study in its database: the only caller of ask and tell, and the only place that writes rows.

Stock Optuna and optuna-dashboard read all of it. A database that is away for a while is waited for: the trials train
on, and their epochs wait in files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import optuna
import tenacity
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from storage.database import schema
from storage.database.calls import DatabaseCalls, StalledError
from storage.database.endpoint import describe_database_error, is_transient
from storage.database.schema import AttemptRow, SpentRow, VerdictRow
from storage.protocol.attempts import AttemptEnd, merge_epochs
from storage.protocol.clock import Clock
from storage.protocol.codec import to_plain
from storage.protocol.records import EpochMetrics
from study.objectives import Constraint, Objective
from study.search_space import SearchSpace
from study.transitions import Tell

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# A maintenance restart of a database server takes minutes; a driver that gives up loses nothing but its allocations.
PATIENCE_S = 900.0
# A person who wants an end, or a trial's end that is in its files anyway.
_HURRIED_PATIENCE_S = 4.0
_NOTICE_AFTER_S = 5.0


class DatabaseLostError(OSError):
    """The database has been away for too long, or refuses what it is given."""


class Lease(Protocol):
    def require(self) -> None:
        """Make sure that the study is this driver's."""
        ...


@dataclass(frozen=True)
class TrialRow:
    """A trial that is asked for and not yet told."""

    number: int
    parameters: dict[str, Any]
    spec_sha256: str | None = None
    """Of the specification that was written for it; None if the driver died before that."""
    attempts: tuple[AttemptRow, ...] = ()
    forgiven: int = 0
    """How many attempts, from the first one, do not count against it."""


class _FirstObjective:
    """A study of several objectives as one of its first, which is all that Optuna's pruners ask of a study."""

    direction = StudyDirection.MAXIMIZE

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def get_trials(self, **options: Any) -> list[FrozenTrial]:
        return self._study.get_trials(**options)


class Ledger:
    """One study's rows.

    Args:
        search_space: What a trial samples.
        objectives: What a trial is told with; the first one, of each epoch, is the trial's intermediate value.
        constraint: What trials must keep to. By how much one breaks it is where samplers and dashboard look for it.
        notice: Told what a person should know while the database is waited for.
        is_hurried: Whether a person wants an end, which no waiting should delay.
        pause: Waits for so many seconds, or less when `is_hurried` becomes true.
        kg_co2e_per_kwh: Of the site's electricity, where it is known.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        search_space: SearchSpace,
        objectives: Sequence[Objective],
        constraint: Constraint | None,
        calls: DatabaseCalls,
        lease: Lease,
        clock: Clock,
        notice: Callable[[str], None],
        is_hurried: Callable[[], bool],
        pause: Callable[[float], None],
        kg_co2e_per_kwh: float | None = None,
    ) -> None:
        self._study, self._search_space, self._objectives = study, search_space, objectives
        self._objective, self._constraint = objectives[0].name, constraint
        self._calls, self._lease, self._clock = calls, lease, clock
        self._notice, self._is_hurried, self._pause = notice, is_hurried, pause
        self._kg_co2e_per_kwh = kg_co2e_per_kwh
        # Optuna's own storage interface: a Trial object cannot overwrite an epoch that a lost attempt had reported.
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._has_noticed = False

    def trials(self) -> list[FrozenTrial]:
        return self.with_retries(lambda: self._study.get_trials(deepcopy=False))

    def counts(self) -> tuple[int, int]:
        """How many trials have ended, and how many there are; those that a person has put in the queue do not count."""
        states = [trial.state for trial in self.trials()]
        return sum(state.is_finished() for state in states), sum(state is not TrialState.WAITING for state in states)

    def next_trial(self, known: Collection[int], total: int) -> TrialRow | None:
        """A trial that is asked for, not told and not `known`, or else a new one; None if there are `total` already.

        One action, so that a repetition after an error finds the trial that was made before the error. A trial whose
        driver died in sampling is sampled to the end.
        """

        def find_or_ask() -> TrialRow | None:
            trials = [t for t in self._study.get_trials(deepcopy=False) if t.state is not TrialState.WAITING]
            left_behind = (t for t in trials if t.state is TrialState.RUNNING and t.number not in known)
            if (trial := next(left_behind, None)) is not None:
                return self._row(optuna.trial.Trial(self._study, self._id(trial.number)))
            return self._row(self._study.ask()) if len(trials) < total else None

        return self._write(find_or_ask)

    def require_lease(self) -> None:
        """Make sure that the study is still this driver's.

        Raises:
            LeaseError: It is not.
        """
        self.with_retries(self._lease.require)

    def record_spec(self, number: int, spec_sha256: str) -> None:
        """Tie a trial to the specification that is written for it."""
        self._set_attributes(number, {schema.SPEC_SHA256: spec_sha256})

    def record_epoch(self, number: int, metrics: EpochMetrics) -> None:
        """Store the epoch's objective as the trial's intermediate value, over an earlier attempt's."""
        value = metrics.score(self._objective)
        self._write_to_trial(
            number, lambda: self._storage.set_trial_intermediate_value(self._id(number), metrics.epoch, value)
        )

    def record_attempts(self, number: int, ends: Sequence[AttemptEnd]) -> None:
        """Store what is known of a trial's attempts so far."""
        self._set_attributes(number, {schema.ATTEMPTS: [to_plain(AttemptRow.of(end)) for end in ends]})

    def verdicts(self) -> dict[int, list[VerdictRow]]:
        """What the pruner has said so far, by trial number."""
        return {trial.number: schema.read_verdicts(trial.user_attrs) for trial in self.trials()}

    def record_verdicts(self, number: int, rows: Sequence[VerdictRow]) -> None:
        """Store what the pruner has said of a trial, before anybody acts on it."""
        self._set_attributes(number, {schema.VERDICTS: [to_plain(row) for row in rows]})

    def attempts(self) -> dict[int, list[AttemptRow]]:
        """What is stored of attempts, by trial number."""
        return {trial.number: schema.read_attempts(trial.user_attrs) for trial in self.trials()}

    def read_spent(self) -> SpentRow:
        """What the study had cost when it was last stored."""
        return schema.read_spent(self.with_retries(lambda: self._storage.get_study_user_attrs(self._study_id)))

    def record_spent(self, row: SpentRow) -> None:
        self._write(lambda: self._storage.set_study_user_attr(self._study_id, schema.SPENT, to_plain(row)))

    def would_prune(self, pruner: BasePruner, epochs: Sequence[EpochMetrics]) -> bool:
        """What one of Optuna's pruners says of a trial that has come so far."""
        values = {metrics.epoch: metrics.score(self._objective) for metrics in epochs}
        trial = create_trial(state=TrialState.RUNNING, intermediate_values=values)
        study = self._study if len(self._objectives) == 1 else cast("optuna.Study", _FirstObjective(self._study))
        return self.with_retries(lambda: pruner.prune(study, trial))

    def forgive(self, number: int, ends: Sequence[AttemptEnd]) -> None:
        """Give a trial all of its attempts anew: what made these fail was not the trial."""
        self.record_attempts(number, ends)
        self._set_attributes(number, {schema.FORGIVEN_ATTEMPTS: len(ends)})

    def finish(self, number: int, tell: Tell, ends: Sequence[AttemptEnd], last_epoch: int | None = None) -> None:
        """Store all that the trial's attempts found out, and tell the study. May be repeated.

        Args:
            last_epoch: After which the trial was stopped; later ones are stored as trained, and count for nothing.
        """
        epochs = [metrics for metrics in merge_epochs(ends) if last_epoch is None or metrics.epoch <= last_epoch]
        # Once more from the files: what a runner told may have been lost on the way, a line on disk is not.
        stored = self.with_retries(lambda: self._storage.get_trial(self._id(number)).intermediate_values)
        for metrics in epochs:
            if stored.get(metrics.epoch) != metrics.score(self._objective):
                self.record_epoch(number, metrics)
        self.record_attempts(number, ends)
        record = schema.trial_record(tell.outcome, tell.reason, ends, last_epoch, self._kg_co2e_per_kwh)
        self._set_attributes(number, record.attributes())
        values = None
        if tell.value is not None:
            values = [tell.value, *(objective.value_of(record) for objective in self._objectives[1:])]
        if self._constraint is not None and tell.state is TrialState.COMPLETE:
            self._note_constraint(number, self._constraint, record)
        # The trial is frozen by it, so it comes last.
        self._write(lambda: self._study.tell(number, values, state=tell.state, skip_if_finished=True))

    def with_retries(self, action: Callable[[], Result]) -> Result:
        """Run a database action that may be repeated, until the database answers.

        Raises:
            DatabaseLostError: It has not answered for 15 minutes or since the driver was asked to stop, or refuses for
                a reason that waiting does not cure.
        """
        started_s = self._clock.monotonic()

        def has_waited_enough(waited_s: float) -> bool:
            self._notice_silence(waited_s)
            return waited_s >= (_HURRIED_PATIENCE_S if self._is_hurried() else PATIENCE_S)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_exponential(multiplier=0.5, max=15),
            stop=lambda state: has_waited_enough(self._clock.monotonic() - started_s),
            sleep=self._pause,
            before_sleep=self._log_retry,
            reraise=True,
        )
        try:
            result = retrying(self._calls.call, action, has_waited_enough)
        except (StorageInternalError, SQLAlchemyError, StalledError) as error:
            raise self._lost(error) from error
        self._has_noticed = False
        return result

    def _lost(self, error: Exception) -> DatabaseLostError:
        reason = describe_database_error(error)
        if is_transient(error) or isinstance(error, StalledError):
            since = "when the driver was asked to stop" if self._is_hurried() else f"for {PATIENCE_S / 60:.0f} minutes"
            reason = f"it did not answer {since}: {reason}"
        return DatabaseLostError(
            f"database: {reason}. What is stored is safe and the trials under way pause: put it right and run the "
            "same command to go on."
        )

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            log.warning("database: %s; attempt %d", describe_database_error(error), state.attempt_number)
            self._notice_once(f"The database does not answer, so its news waits: {describe_database_error(error)}.")

    def _notice_silence(self, waited_s: float) -> None:
        if waited_s >= _NOTICE_AFTER_S:
            self._notice_once("The database does not answer, so its news waits; the trials train on.")

    def _notice_once(self, text: str) -> None:
        if not self._has_noticed:
            self._has_noticed = True
            self._notice(text)

    def _row(self, trial: optuna.Trial) -> TrialRow:
        parameters = self._search_space.sample(trial)
        attributes = trial.user_attrs
        return TrialRow(
            trial.number,
            parameters,
            attributes.get(schema.SPEC_SHA256),
            tuple(schema.read_attempts(attributes)),
            attributes.get(schema.FORGIVEN_ATTEMPTS, 0),
        )

    def _note_constraint(self, number: int, constraint: Constraint, record: schema.TrialRecord) -> None:
        def note() -> None:
            trial = optuna.trial.Trial(self._study, self._id(number))
            # Written once; a repetition finds it.
            if constraint.text not in self._storage.get_trial(self._id(number)).constraints:
                trial.set_constraint(constraint.text, constraint.violation(record))

        self._write_to_trial(number, note)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _set_attributes(self, number: int, attributes: dict[str, Any]) -> None:
        def set_all() -> None:
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(self._id(number), key, value)

        self._write_to_trial(number, set_all)

    def _write(self, write: Callable[[], Result]) -> Result:
        def write_as_holder() -> Result:
            self._lease.require()
            return write()

        return self.with_retries(write_as_holder)

    def _write_to_trial(self, number: int, write: Callable[[], None]) -> None:
        """A trial that a person has ended, as optuna-dashboard's buttons can, takes no more and stays so."""
        try:
            self._write(write)
        except UpdateFinishedTrialError:
            log.warning("trial %d: somebody else has ended it; its news is dropped", number)
