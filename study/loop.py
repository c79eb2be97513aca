"""The study's life: ask for configurations, send attempts out, tell what came back. The only caller of ask and tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from cluster.attempt import AttemptEnd, AttemptRequest, EndKind
from cluster.dispatch import AttemptFinished, Dispatcher, EpochFinished
from cluster.launchers import RankLayout
from cluster.pool import WorkerPool
from cluster.profile import SiteProfile
from cluster.slurm_queue import slurm_lines
from storage.records import EpochMetrics
from storage.trial_dir import AttemptDir, TrialDir
from study.config import StudyConfig
from study.durations import Durations
from study.ledger import Ledger, is_finished
from study.samplers import derive_seed
from study.transitions import Finish, Halt, Tell, Transition, TryAgain, cause, merge_epochs, next_transition

log = logging.getLogger(__name__)

_POLL_S = 0.5
# In a row. A site at which ranks have met before may have a single bad node, which Slurm hands out again and again.
_MAX_FAILED_FIRST_LAUNCHES = 3
_MAX_FAILED_LAUNCHES = 10
_STATES = {Finish.COMPLETE: TrialState.COMPLETE, Finish.PRUNED: TrialState.PRUNED, Finish.FAIL: TrialState.FAIL}


class StudyHaltedError(RuntimeError):
    """No trial can go on until a person has put something right."""

    def __init__(self, reason: str, trial: TrialDir) -> None:
        super().__init__(f"{reason} and run the same command to go on; {trial.path} holds the logs.")


class View(Protocol):
    """What a person sees of a running study."""

    def trial_started(self, number: int, attempt: int, parameters: dict[str, object]) -> None: ...

    def epoch_finished(self, number: int, metrics: EpochMetrics) -> None: ...

    def trial_waits(self, number: int, reason: str, has_checkpoint: bool) -> None: ...

    def trial_finished(self, number: int, tell: Tell) -> None: ...

    def progressed(self, finished: int, total: int) -> None: ...

    def notice(self, text: str) -> None: ...


@dataclass
class ActiveTrial:
    """A trial that is asked for and not yet told."""

    number: int
    parameters: dict[str, object]
    directory: TrialDir
    ends: list[AttemptEnd] = field(default_factory=list)


class StudyLoop:
    """Runs one study until it has its number of trials."""

    def __init__(
        self,
        study: optuna.Study,
        ledger: Ledger,
        config: StudyConfig,
        profile: SiteProfile,
        layout: RankLayout,
        slots: int,
        pool: WorkerPool,
        view: View,
    ) -> None:
        self._study, self._ledger, self._config = study, ledger, config
        self._profile, self._layout, self._slots = profile, layout, slots
        self._pool, self._dispatcher, self._view = pool, Dispatcher(pool.client), view
        self._waiting: list[ActiveTrial] = []
        self._training: dict[int, ActiveTrial] = {}
        self._durations = Durations()
        self._has_launched = False
        self._failed_launches = 0

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Run until the study is complete, or until stopping has paused the trials under way.

        Raises:
            DatabaseLostError: Trials under way are paused by the caller's closing of the workers.
            StudyHaltedError: The ranks' disk is full, or the site cannot start ranks.
            OSError: The driver's disk is full, or the study's folder is gone.
        """
        paused = False
        while True:
            if not is_stopping():
                self._fill_slots()
            elif not paused:
                self._dispatcher.pause_all()
                paused = True
            if not self._training and (paused or not self._waiting):
                return
            self._dispatcher.give_up_on_lost_workers()
            match self._dispatcher.next_news(_POLL_S):
                case EpochFinished(request, metrics):
                    self._on_epoch(self._training[_number(request)], metrics)
                case AttemptFinished(request, end, worker):
                    trial = self._training.pop(_number(request))
                    self._note_launch(trial, end, worker)
                    self._on_end(trial, end)

    def _fill_slots(self) -> None:
        """Put a trial on each worker that is free, and ask for as many workers as there are trials for them."""
        while found := self._ledger.patiently(self._new_trials):
            for trial in found:
                # An earlier driver may have died between the end of a trial and telling it.
                if trial.ends and isinstance(transition := self._transition(trial), Tell):
                    self._finish(trial, transition)
                else:
                    self._waiting.append(trial)
        self._pool.ask_for(len(self._training) + len(self._waiting))
        for notice in self._pool.notices():
            log.warning(notice)
            self._view.notice(notice)
        for worker in self._pool.workers() - self._dispatcher.busy_workers():
            if self._waiting and self._has_time_for_a_trial(worker):
                self._start(self._waiting.pop(0), worker)
            else:
                self._pool.retire(worker)

    def _has_time_for_a_trial(self, worker: str) -> bool:
        remaining_s = self._pool.deadline_unix_s(worker) - time.time()
        return remaining_s >= self._durations.needed_walltime_s(self._profile.checkpoint_grace_s, self._pool.walltime_s)

    def _new_trials(self) -> list[ActiveTrial]:
        """Trials to fill the slots with: those that an earlier driver left behind, then new ones.

        May be repeated after a database error: a trial that was created before the error is found as one left behind.
        """
        active = {*self._training, *(trial.number for trial in self._waiting)}
        free = self._slots - len(active)
        if free <= 0:
            return []
        trials = self._study.get_trials(deepcopy=False)
        started = [trial for trial in trials if trial.state is not TrialState.WAITING]
        self._view.progressed(sum(map(is_finished, trials)), max(self._config.study.trials, len(started)))
        left_behind = [t for t in started if t.state is TrialState.RUNNING and t.number not in active]
        if left_behind:
            return [self._adopt(trial) for trial in left_behind[:free]]
        return [self._activate(self._study.ask())] if len(started) < self._config.study.trials else []

    def _activate(self, trial: optuna.Trial) -> ActiveTrial:
        parameters = self._config.search_space.sample(trial)
        return ActiveTrial(trial.number, parameters, TrialDir(self._config.trial_dir(trial.number)))

    def _adopt(self, frozen: FrozenTrial) -> ActiveTrial:
        trial = self._activate(self._ledger.reopen(frozen.number))
        attempts = trial.directory.attempts()
        stored = frozen.user_attrs.get("attempts", [])
        trial.ends = [_recall(attempt, stored) for attempt in attempts]
        log.info("trial %d: adopted with %d attempts", trial.number, len(attempts))
        return trial

    def _start(self, trial: ActiveTrial, worker: str) -> None:
        """Start the trial's next attempt."""
        seed = derive_seed(self._config.study.seed, trial.number)
        trial.directory.write_spec(
            self._config.trial_spec(trial.number, seed, trial.parameters, self._layout.world_size)
        )
        request = AttemptRequest(
            trial_dir=trial.directory.path.resolve(),
            attempt_number=trial.directory.new_attempt().number,
            layout=self._layout,
            launcher_name=self._profile.launcher,
            launcher_options=self._profile.launcher_options,
            environment=self._profile.rank_environment,
            grace_s=self._profile.checkpoint_grace_s,
            ranks_meet_within_s=self._profile.ranks_meet_within_s,
            deadline_unix_s=self._pool.deadline_unix_s(worker),
        )
        self._training[trial.number] = trial
        self._dispatcher.submit(request, worker)
        self._view.trial_started(trial.number, request.attempt_number, trial.parameters)
        log.info("trial %d attempt %d: started with %s", trial.number, request.attempt_number, trial.parameters)

    def _on_epoch(self, trial: ActiveTrial, metrics: EpochMetrics) -> None:
        self._has_launched = True
        self._ledger.record_epoch(trial.number, metrics, self._config.study.objective)
        self._view.epoch_finished(trial.number, metrics)

    def _on_end(self, trial: ActiveTrial, end: AttemptEnd) -> None:
        log.info("trial %d: attempt ended: %s, exit code %d", trial.number, end.kind, end.exit_code)
        trial.ends.append(end)
        self._durations.learn(end)
        match self._transition(trial):
            case Tell() as tell:
                self._finish(trial, tell)
            case Halt(reason):
                # Nothing is stored: to the next driver, the attempt died with this one.
                raise StudyHaltedError(reason, trial.directory)
            case TryAgain(reason):
                self._ledger.record_attempts(trial.number, trial.ends)
                self._view.trial_waits(trial.number, reason, trial.directory.checkpoint_path.exists())
                self._waiting.append(trial)

    def _note_launch(self, trial: ActiveTrial, end: AttemptEnd, worker: str) -> None:
        """Give back an allocation that could not start ranks; tell it from a site at which none can.

        Raises:
            StudyHaltedError: One allocation after another has failed.
        """
        if end.kind is not EndKind.NOT_LAUNCHED:
            self._has_launched |= end.communicator is not None
            self._failed_launches = 0
            return
        if worker in self._pool.workers():
            self._pool.retire(worker)
        self._failed_launches += 1
        allowed = _MAX_FAILED_LAUNCHES if self._has_launched else _MAX_FAILED_FIRST_LAUNCHES
        if self._failed_launches >= allowed:
            raise StudyHaltedError(
                f"{self._profile.launcher} could not start any rank, {self._failed_launches} times in a row: "
                f"{slurm_lines(end.log_tail) or cause(end.log_tail)}. Change site {self._profile.name!r}",
                trial.directory,
            )

    def _finish(self, trial: ActiveTrial, tell: Tell) -> None:
        epochs = merge_epochs(trial.ends)
        # Once more from the files: an event of Dask's may have been lost with a worker, a line on disk is not.
        self._ledger.record_epochs(trial.number, epochs, self._config.study.objective)
        self._ledger.record_end(trial.number, tell, trial.ends, epochs)
        self._ledger.patiently(
            lambda: self._study.tell(trial.number, tell.value, state=_STATES[tell.finish], skip_if_finished=True)
        )
        self._view.trial_finished(trial.number, tell)
        log.info("trial %d: %s %s %s", trial.number, tell.finish, tell.outcome, tell.reason)

    def _transition(self, trial: ActiveTrial) -> Transition:
        return next_transition(trial.ends, self._config.study.objective, self._config.study.crash_retries)


def _recall(attempt: AttemptDir, stored: list[dict]) -> AttemptEnd:
    """The end of an attempt of an earlier driver. One that left neither a result nor a row died with its driver."""
    row = stored[attempt.number - 1] if len(stored) >= attempt.number else {}
    kind = EndKind(row.get("end", EndKind.ABANDONED))
    return AttemptEnd.of_files(attempt, kind, row.get("exit_code", -1), row.get("wall_s"))


def _number(request: AttemptRequest) -> int:
    return int(request.trial_dir.name)
