"""Faults that the product once had, or could have: each is put back, to see that the simulation finds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import optuna
from optuna.trial import TrialState

from cluster import job_pool
from cluster.job_pool import JobPool
from storage.database.lease import StudyLease
from storage.protocol.attempts import AttemptRequest
from storage.protocol.codec import from_json
from storage.protocol.files import FileSystem
from storage.protocol.records import EpochMetrics
from storage.protocol.trial_dir import AttemptDir, MetricsReader
from study import loop, opening, transitions
from study.judge import Judge
from study.ledger import Ledger
from study.loop import StudyLoop
from study.transitions import Hold, TryAgain
from tests.simulation import driver as driver_module
from tests.simulation import runner as runner_module
from tests.simulation.driver import SimulatedLink
from tests.simulation.runner import SimulatedRunner

Mutant = Callable[[], Any]


@contextmanager
def a_poll_takes_living_runners_for_lost() -> Iterator[None]:
    """D0: who is there is asked of a cache that is empty now and then; the attempt of a runner that seems to be gone is
    given up at once, its ranks train on, and its runner's thread is blocked, without a limit of time to anything."""

    def present(self: SimulatedLink) -> frozenset[str]:
        if self._world.random.random() < 0.003:
            return frozenset()
        return frozenset(self.runners)

    tick = JobPool.tick

    def give_up_and_tick(self: JobPool) -> None:
        here = self.link.present()
        for running in list(self._running.values()):
            if running.worker not in here:
                runner = self.link.runners.get(running.worker)  # type: ignore[attr-defined]
                if runner is not None:
                    runner.is_blocked = True
                self._release(running.worker, "worker is gone")
        tick(self)

    start = SimulatedRunner.start

    def start_unless_blocked(self: SimulatedRunner, request: AttemptRequest) -> None:
        if not getattr(self, "is_blocked", False):
            start(self, request)

    with (
        mock.patch.object(SimulatedLink, "present", present),
        mock.patch.object(JobPool, "tick", give_up_and_tick),
        mock.patch.object(SimulatedRunner, "start", start_unless_blocked),
        mock.patch.object(job_pool, "_silence_allowed_s", return_value=math.inf),
        old_attempts_are_not_fenced(),
    ):
        yield


@contextmanager
def a_folder_is_believed_whosever_it_is() -> Iterator[None]:
    """D1: nothing ties a trial's folder, its specification and its checkpoint to the study in the database."""

    def believe(study: Any, folder: Any, *arguments: Any) -> str:
        return "whatever"

    def bind(self: StudyLoop, trial: Any, row: Any) -> None:
        trial.directory.create(self._plan.spec(trial.number, trial.parameters, self._study_uuid))

    with (
        mock.patch.object(driver_module, "bind_folder", believe),
        mock.patch.object(StudyLoop, "_bind", bind),
        mock.patch.object(loop, "_of_this_trial", lambda end, trial: end),
        mock.patch.object(runner_module, "LET_WRONG_CHECKPOINTS_PASS", True),
    ):
        yield


@contextmanager
def a_malformed_line_raises() -> Iterator[None]:
    """D3: reading the epochs of an attempt raises, in the middle of taking note of its end."""

    def read_new(self: MetricsReader) -> list[EpochMetrics]:
        content = self._attempt.files.read(self._path) or b""
        return [from_json(EpochMetrics, line.decode()) for line in content.split(b"\n")[:-1]]

    with mock.patch.object(MetricsReader, "read_new", read_new):
        yield


@contextmanager
def old_attempts_are_not_fenced() -> Iterator[None]:
    """Only with a fault that lets an older attempt live on: by itself it shows once in thousands of studies."""
    with mock.patch.object(AttemptDir, "is_superseded", return_value=False):
        yield


@contextmanager
def the_lease_is_not_looked_at() -> Iterator[None]:
    with (
        mock.patch.object(StudyLease, "require"),
        mock.patch.object(StudyLease, "acquire"),
        mock.patch.object(StudyLease, "renew"),
    ):
        yield


@contextmanager
def asking_is_repeated_blindly() -> Iterator[None]:
    """A trial that was made just before an error of the database is forgotten, and another one made."""

    def next_trial(self: Ledger, known: Any, total: int) -> Any:
        trials = self.trials()
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.number not in known:
                return self._row(optuna.trial.Trial(self._study, self._id(trial.number)))
        return self._write(lambda: self._row(self._study.ask())) if len(trials) < total else None

    with mock.patch.object(Ledger, "next_trial", next_trial):
        yield


@contextmanager
def an_attempt_may_start_in_a_job_that_has_just_ended() -> Iterator[None]:
    start = JobPool.start

    def start_without_looking(self: JobPool, request: AttemptRequest, worker: str) -> None:
        with mock.patch.object(JobPool, "_release"):
            start(self, request, worker)

    with mock.patch.object(JobPool, "start", start_without_looking):
        yield


@contextmanager
def a_new_trial_enters_any_folder() -> Iterator[None]:
    with (
        mock.patch.object(opening, "_require_known_trials"),
        mock.patch.object(opening, "_read_marker", return_value=None),
        mock.patch.object(StudyLoop, "_bind", lambda self, trial, row: _create_blindly(self, trial)),
        mock.patch.object(loop, "_of_this_trial", lambda end, trial: end),
        mock.patch.object(runner_module, "LET_WRONG_CHECKPOINTS_PASS", True),
        mock.patch.object(opening, "_require_no_lost_files"),
    ):
        yield


def _create_blindly(study_loop: StudyLoop, trial: Any) -> None:
    files: FileSystem = trial.directory.files
    files.make_dir(trial.directory.path)
    trial.directory.create(study_loop._plan.spec(trial.number, trial.parameters, study_loop._study_uuid))


@contextmanager
def a_promotion_is_lost_with_its_driver() -> Iterator[None]:
    """It is acted on, and is in no database."""
    promote, store = Judge.promote, Judge._store

    def promote_in_memory(self: Judge, number: int) -> None:
        with mock.patch.object(Judge, "_store", lambda self, number, rows: self._rows.update({number: rows})):
            promote(self, number)

    with mock.patch.object(Judge, "promote", promote_in_memory), mock.patch.object(Judge, "_store", store):
        yield


@contextmanager
def a_rung_is_decided_while_the_database_is_away() -> Iterator[None]:
    """A verdict that cannot be stored at once is acted on, and forgotten."""

    def store(self: Judge, number: int, rows: Any) -> None:
        self._rows[number] = rows
        if self._ledger._storage._database.world.random.random() < 0.9:  # type: ignore[attr-defined]
            self._ledger.record_verdicts(number, rows)

    with mock.patch.object(Judge, "_store", store):
        yield


@contextmanager
def a_held_trial_is_taken_for_a_paused_one() -> Iterator[None]:
    def next_transition(*arguments: Any) -> Any:
        transition = transitions.next_transition(*arguments)
        return TryAgain("paused") if isinstance(transition, Hold) else transition

    with mock.patch.object(loop, "next_transition", next_transition):
        yield


@contextmanager
def a_rung_is_judged_again_by_the_next_driver() -> Iterator[None]:
    """What was decided is kept in memory, as by a pruner that is no part of the database."""
    rows = Judge._rows.fget  # type: ignore[attr-defined]

    def rows_of_this_driver(self: Judge) -> Any:
        if self._stored is None:
            self._stored = {}
        return rows(self)

    with mock.patch.object(Judge, "_rows", property(rows_of_this_driver)):
        yield


MUTANTS: dict[str, Mutant] = {
    mutant.__name__: mutant
    for mutant in (
        a_poll_takes_living_runners_for_lost,
        a_folder_is_believed_whosever_it_is,
        a_malformed_line_raises,
        the_lease_is_not_looked_at,
        asking_is_repeated_blindly,
        an_attempt_may_start_in_a_job_that_has_just_ended,
        a_new_trial_enters_any_folder,
        a_promotion_is_lost_with_its_driver,
        a_rung_is_decided_while_the_database_is_away,
        a_held_trial_is_taken_for_a_paused_one,
        a_rung_is_judged_again_by_the_next_driver,
    )
}
