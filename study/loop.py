"""The study's life: ask for configurations, send attempts out, tell what came back."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from optuna.trial import TrialState

from cluster.pool import AttemptFinished, EpochFinished, Event, Pool
from storage.database.lease import LeaseError
from storage.database.schema import AttemptRow, TrialRecord, trial_record
from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure, RankLayout, merge_epochs
from storage.protocol.clock import Clock
from storage.protocol.codec import to_json
from storage.protocol.files import OS_FILES, FileSystem
from storage.protocol.records import EpochMetrics, Outcome, spec_sha256
from storage.protocol.trial_dir import AttemptDir, TrialDir
from study.account import Account
from study.budget import Budget, BudgetError, Need
from study.durations import Durations
from study.failures import AlikeFailures
from study.forecast.outlook import Outlook
from study.halving import Verdict
from study.judge import Judge
from study.ledger import DatabaseLostError, Ledger, TrialRow
from study.placement import count_that_fit
from study.plan import StudyPlan
from study.stagnation import stagnation
from study.transitions import Halt, Hold, Tell, Transition, TryAgain, next_transition, pruned

log = logging.getLogger(__name__)

POLL_S = 0.5
# In a row. A site at which ranks have met before may have a single bad node, which it hands out again and again.
_MAX_FAILED_FIRST_ALLOCATIONS = 3
_MAX_FAILED_ALLOCATIONS = 10
_FAILURES_THAT_RETIRE = 2
# Beyond the ranks' grace time, for launchers, runners and messages.
_ENDS_LATER_BY_S = 30.0


class StudyHaltedError(RuntimeError):
    """No trial can go on until a person has put something right."""


class View(Protocol):
    """What a person sees of a running study."""

    def trial_started(self, number: int, attempt: int, parameters: dict[str, Any]) -> None: ...

    def epoch_finished(self, number: int, metrics: EpochMetrics) -> None: ...

    def trial_waits(self, number: int, reason: str, has_checkpoint: bool) -> None: ...

    def trial_held(self, number: int, reason: str) -> None: ...

    def trial_promoted(self, number: int, reason: str) -> None: ...

    def trial_finished(self, number: int, tell: Tell) -> None: ...

    def progressed(self, finished: int, total: int) -> None: ...

    def spent(self, words: str) -> None:
        """What the study has cost by now, of what it may. Told twice a second."""
        ...

    def notice(self, text: str) -> None: ...


class Stop(Protocol):
    """What a person or a batch system wants of the driver."""

    def is_requested(self) -> bool:
        """The trials under way are to save a checkpoint and pause."""
        ...

    def is_urgent(self) -> bool:
        """Nothing more is waited for."""
        ...

    @property
    def signal_name(self) -> str: ...


@dataclass
class ActiveTrial:
    """A trial that is asked for and not yet told."""

    number: int
    parameters: dict[str, Any]
    directory: TrialDir
    spec_sha256: str = ""
    ends: list[AttemptEnd] = field(default_factory=list)
    forgiven: int = 0
    """How many of its ends do not count against it."""
    epochs: dict[int, EpochMetrics] = field(default_factory=dict)
    """That its attempt under way has trained, as far as they are known."""
    is_verified: bool = False
    """Whether the attempt under way is known to train this trial's specification."""

    @property
    def ends_that_count(self) -> list[AttemptEnd]:
        return self.ends[self.forgiven :]


@dataclass
class _Ending:
    """The study ends: attempts have been asked to pause."""

    until_s: float
    error: Exception | None


class StudyLoop:
    """Runs one study until it has its number of trials."""

    def __init__(
        self,
        plan: StudyPlan,
        study_uuid: str,
        ledger: Ledger,
        pool: Pool,
        view: View,
        stop: Stop,
        clock: Clock,
        files: FileSystem = OS_FILES,
        outlook: Outlook | None = None,
    ) -> None:
        self._plan, self._study_uuid, self._ledger, self._pool = plan, study_uuid, ledger, pool
        self._view, self._stop, self._clock, self._files = view, stop, clock, files
        self._waiting: list[ActiveTrial] = []
        self._training: dict[int, ActiveTrial] = {}
        self._running: dict[int, AttemptRequest] = {}
        self._held: dict[int, ActiveTrial] = {}
        settings = plan.config
        pruner = settings.pruner.resolved(settings.training.epochs)
        self._judge = Judge(pruner, settings.study.seed, settings.study.objective, ledger)
        self._failures = AlikeFailures()
        self._durations = Durations()
        self._outlook = outlook
        self._left = ""
        """What the trials that are left will take, in words."""
        self._nodes = plan.site.nodes_of(plan.layout)
        """Of a trial that begins."""
        self._account = Account(Budget(settings.budget), self._nodes, ledger, pool, clock)
        self._is_first_look = True
        self._unaffordable: dict[int, ActiveTrial] = {}
        """Unfinished trials that the rest of the budget does not bring to a result."""
        self._is_beyond_budget = False
        self._is_stagnant = False
        self._has_met = False
        self._failed_allocations = 0
        self._failures_of_worker: Counter[str] = Counter()
        self._ending: _Ending | None = None

    def run(self) -> None:
        """Run until the study is complete, or until its trials are paused.

        Whatever ends the study, attempts under way are asked to pause and get the time for a checkpoint.

        Raises:
            DatabaseLostError: The database is away for long, or refuses.
            LeaseError: Another driver has taken the study over.
            StudyHaltedError: The ranks' disk is full, or no allocation can run ranks, or trial after trial fails alike.
            PoolError: There will be no workers.
            BudgetError: The budget is used up already.
            OSError: The driver's disk is full, or the study's folder is gone.
        """
        while not self.step(POLL_S):
            pass

    def step(self, timeout_s: float) -> bool:
        """Do what there is to do now, and wait a moment for news; whether the study has ended."""
        try:
            if self._ending is None and self._stop.is_requested():
                self._begin_to_end(None)
            if self._ending is None:
                self._look_at_budget()
            if self._ending is None and self._fill_slots():
                self._account.store(is_last=True)
                return True
            if self._ending is not None and self._has_ended(self._ending):
                if self._ending.error is not None:
                    raise self._ending.error
                if not self._stop.is_urgent():
                    self._account.store(is_last=True)
                return True
            event = self._pool.next_event(timeout_s)
            if event is not None:
                self._on_event(event)
        # Whatever it is: the trials under way get the time to pause.
        except Exception as error:
            if self._ending is not None and self._ending.error is error:
                raise
            self._begin_to_end(error)
        return False

    def settle(self) -> None:
        """Store what the study has cost once more, now that its last allocation has been given back."""
        self._account.store(is_last=True)

    def describe_spent(self) -> str:
        """What the study has cost, of what it may; empty where nothing limits it."""
        return self._account.describe() if self._account.is_limited else ""

    def _look_at_budget(self) -> None:
        """
        Raises:
            BudgetError: It was used up before this driver came, and something is left to do.
        """
        why = self._account.used_up()
        if self._is_first_look:
            self._is_first_look = False
            self._learn_durations()
            self._look_ahead()
            finished, _ = self._ledger.counts()
            if why and finished < self._plan.config.study.total_trials:
                raise BudgetError(f"{why}. Raise it to go on; the results so far are in the database.")
        elif why:
            self._view.notice(
                f"{why}: trials under way save a checkpoint and pause. A larger budget goes on with them."
            )
            self._begin_to_end(None)
            return
        self._account.store()
        self._view.spent(self._account.describe() + self._left)

    def _learn_durations(self) -> None:
        for trial in self._ledger.trials() if self._account.is_limited or self._outlook is not None else []:
            if (record := TrialRecord.read(trial.user_attrs)) is not None:
                self._durations.learn_record(record)
                if self._outlook is not None:
                    self._outlook.learn(record)

    def _look_ahead(self) -> None:
        """Forecast anew, now that another trial has ended."""
        if self._outlook is not None:
            finished, _ = self._ledger.counts()
            words = self._outlook.left_in_words(self._plan.config.study.total_trials - finished)
            self._left = f"; {words}" if words else ""

    def _begin_to_end(self, error: Exception | None) -> None:
        if self._ending is not None:
            # Paused trials are in their files: what cannot be stored now is found by the next driver.
            self._ending.error = self._ending.error or error
            return
        if self._stop.is_requested():
            self._view.notice(
                f"{self._stop.signal_name}: the trials under way save a checkpoint and pause, within "
                f"{self._plan.site.checkpoint_grace_s:g} s; once more, and they end at once, to go on from the "
                "checkpoint before."
            )
        if error is not None and self._training:
            self._view.notice(f"{error} Pausing the trials under way.")
        grace_s = self._plan.site.checkpoint_grace_s + _ENDS_LATER_BY_S
        self._ending = _Ending(self._clock.monotonic() + grace_s, error)
        for trial in self._training.values():
            self._pool.request_stop(self._running[trial.number], Outcome.PAUSED)

    def _has_ended(self, ending: _Ending) -> bool:
        if self._training and self._stop.is_urgent():
            self._pool.hurry()
            return True
        return not self._training or self._clock.monotonic() >= ending.until_s

    def _fill_slots(self) -> bool:
        """Put a trial on each worker that is free, and ask for as many workers as there are trials for them.

        Gives whether there is nothing left to do.
        """
        self._find_trials()
        if not self._training and not self._waiting:
            if self._is_beyond_budget:
                self._view.notice(
                    f"{self._account.describe()}: the rest of the budget brings no further trial to a result, so the "
                    "study ends here. A larger budget goes on with it."
                )
                return True
            if self._held and self._end_held():
                return False
            for trial, tell in self._failures.take():
                self._tell(trial, tell)
            return True
        fitting = self._waiting[: self._count_that_fit()]
        layouts = [*(request.layout for request in self._running.values()), *map(self._layout, fitting)]
        self._pool.ask_for(Counter(layout.nodes for layout in layouts))
        for notice in self._pool.notices():
            log.warning(notice)
            self._view.notice(notice)
        for worker, nodes in self._pool.idle_workers().items():
            following = next((trial for trial in fitting if self._layout(trial).nodes == nodes), None)
            if following is not None and self._has_time_for_a_trial(worker):
                fitting.remove(following)
                self._waiting.remove(following)
                self._start(following, worker, nodes)
            else:
                self._pool.retire(worker)
        return False

    def _layout(self, trial: ActiveTrial) -> RankLayout:
        """Of its next attempt."""
        return self._plan.layout_at(len(self._epochs(trial)))

    def _count_that_fit(self) -> int:
        """How many of the waiting trials there are ranks for, beside those that train."""
        taken = sum(request.layout.world_size for request in self._running.values())
        waiting = (self._layout(trial).world_size for trial in self._waiting)
        return count_that_fit(waiting, self._plan.ranks_at_once - taken)

    def _has_room_for_more(self) -> bool:
        """Whether a trial that begins would fit beside those that train and wait."""
        taken = [request.layout.world_size for request in self._running.values()]
        taken += [self._layout(trial).world_size for trial in self._waiting]
        return sum(taken) + self._plan.layout.world_size <= self._plan.ranks_at_once

    def _has_time_for_a_trial(self, worker: str) -> bool:
        needed_s = self._durations.needed_walltime_s(self._plan.site.checkpoint_grace_s, self._pool.walltime_s)
        return self._pool.time_left_s(worker) >= needed_s

    def _find_trials(self) -> None:
        """Trials to fill the slots with: those that an earlier driver left behind, then new ones."""
        total = self._total()
        self._is_beyond_budget = False
        unaffordable, self._unaffordable = self._unaffordable, {}
        for trial in unaffordable.values():
            self._admit(trial)
        while self._has_room_for_more():
            finished, started = self._ledger.counts()
            self._view.progressed(finished, max(total, started))
            # What an earlier driver left comes before what is decided now.
            row = self._ledger.next_trial(self._known(), 0) if self._judge.holds_trials else None
            if row is None and (number := self._judge.next_promotion([*self._held])) is not None:
                if not self._can_afford(len(self._epochs(self._held[number]))):
                    return
                self._promote(number)
                continue
            is_new_affordable = self._can_afford(0, if_new=True)
            row = row or self._ledger.next_trial(self._known(), total if is_new_affordable else 0)
            if row is None:
                self._is_beyond_budget |= not is_new_affordable and finished + len(self._known()) < total
                return
            trial = self._adopt(row)
            if not self._needs_no_attempt(trial):
                self._admit(trial)

    def _total(self) -> int:
        """Trials of the study; if those that there are have long found nothing better, no further configuration."""
        total, budget = self._plan.config.study.total_trials, self._plan.config.budget
        if budget.stagnant_trials is None or not (why := stagnation(self._ledger.trials(), budget)):
            return total
        _, started = self._ledger.counts()
        if started < total and not self._is_stagnant:
            self._view.notice(f"{why}: no further trial begins. A larger budget.stagnant_trials goes on.")
        self._is_stagnant = True
        repeats = self._plan.config.study.repeats
        return min(-(-started // repeats) * repeats, total)

    def _admit(self, trial: ActiveTrial) -> None:
        if self._can_afford(len(self._epochs(trial))):
            self._waiting.append(trial)
        else:
            self._unaffordable[trial.number] = trial

    def _can_afford(self, done: int, if_new: bool = False) -> bool:
        """Whether the rest of the budget brings a trial with so many epochs to a result, beside those under way."""
        if not self._account.is_limited:
            return True
        under_way = [
            self._need(len(self._epochs(trial)), has_started=bool(trial.epochs))
            for trial in (*self._training.values(), *self._waiting)
        ]
        is_affordable = self._account.is_enough_for(self._need(done), under_way)
        self._is_beyond_budget |= not is_affordable and not if_new
        return is_affordable

    def _need(self, done: int, has_started: bool = False) -> Need:
        """Of a trial with so many epochs, until its next result, by the forecast or by the longest epochs."""
        epochs = self._judge.epochs_to_a_result(done, self._plan.config.training.epochs)
        forecast_s = None if self._outlook is None else self._outlook.needed_s(done, epochs, has_started)
        wall_s = self._durations.needed_s(epochs, has_started) if forecast_s is None else forecast_s
        return Need(wall_s, self._plan.site.nodes_of(self._plan.layout_at(done)))

    def _known(self) -> set[int]:
        """Numbers of the trials that are in this driver's hands."""
        waiting = (trial.number for trial in self._waiting)
        return {*self._training, *waiting, *self._held, *self._unaffordable, *self._failures.numbers()}

    def _needs_no_attempt(self, trial: ActiveTrial) -> bool:
        """Whether a trial has come to an end, or is held, while nobody looked after it; sees to it then.

        An earlier driver may have died between the end of a trial and telling it, or between an epoch and its verdict.
        """
        self._judge.judge(trial.number, self._epochs(trial))
        if self._judge.standing(trial.number) is Verdict.HOLD and not trial.ends_that_count:
            self._hold(trial, self._judge.reason(trial.number))
            return True
        if not trial.ends_that_count:
            return False
        match self._transition(trial):
            case Tell() as tell:
                self._finish(trial, tell)
            case Hold(reason):
                self._hold(trial, reason)
            case _:
                return False
        return True

    def _hold(self, trial: ActiveTrial, reason: str) -> None:
        self._held[trial.number] = trial
        self._view.trial_held(trial.number, reason)
        log.info("trial %d: held: %s", trial.number, reason)

    def _promote(self, number: int) -> None:
        """Have a held trial go on. Its attempt may have come to the next rung before it heard that it was held."""
        reason, decided_after = self._judge.reason(number), self._judge.decided_after(number)
        self._judge.promote(number)
        trial = self._held.pop(number)
        for metrics in self._epochs(trial):
            if decided_after is not None and metrics.epoch > decided_after:
                self._ledger.record_epoch(number, metrics)
        self._view.trial_promoted(number, reason)
        log.info("trial %d: promoted: %s", number, reason)
        if not self._needs_no_attempt(trial):
            self._waiting.append(trial)

    def _end_held(self) -> bool:
        """Nothing is left to compare the held trials with: tell them. Gives whether one of them goes on instead.

        A study trains at least one trial to its last epoch.
        """
        has_completed = any(trial.state is TrialState.COMPLETE for trial in self._ledger.trials())
        if not has_completed and (number := self._judge.last_resort([*self._held])) is not None:
            self._promote(number)
            return True
        while self._held:
            number, trial = next(iter(self._held.items()))
            self._finish(trial, pruned(f"never promoted: {self._judge.reason(number)}"))
            del self._held[number]
        return False

    def _adopt(self, row: TrialRow) -> ActiveTrial:
        """A trial of the database, with its folder and what is known of its attempts."""
        trial = ActiveTrial(row.number, row.parameters, TrialDir(self._plan.trial_path(row.number), self._files))
        self._bind(trial, row)
        attempts = trial.directory.attempts()
        trial.ends = [self._recall(attempt, row, trial) for attempt in attempts]
        trial.forgiven = min(row.forgiven, len(trial.ends))
        self._account.note_attempts(trial.number, trial.ends)
        if attempts:
            log.info("trial %d: adopted with %d attempts", trial.number, len(attempts))
        return trial

    def _recall(self, attempt: AttemptDir, row: TrialRow, trial: ActiveTrial) -> AttemptEnd:
        request = attempt.read_request()
        nodes = self._nodes if request is None else self._plan.site.nodes_of(request.layout)
        return replace(_of_this_trial(_recall(attempt, row.attempts), trial), nodes=nodes)

    def _bind(self, trial: ActiveTrial, row: TrialRow) -> None:
        """See that the trial's folder holds the specification that this study has for it, and no other."""
        spec = self._plan.spec(trial.number, trial.parameters, self._study_uuid)
        own = spec_sha256(to_json(spec))
        if trial.directory.has_spec():
            found = trial.directory.spec_sha256()
            if found in (own, row.spec_sha256):
                own = found
            else:
                aside = self._move_aside(trial.directory)
                self._view.notice(f"trial {trial.number}: its folder held another specification; it is {aside} now")
        if row.spec_sha256 != own:
            self._ledger.record_spec(trial.number, own)
        trial.directory.create(spec)
        trial.spec_sha256 = own

    def _move_aside(self, directory: TrialDir) -> str:
        taken = set(self._files.list_dir(directory.path.parent))
        name = next(n for i in range(len(taken) + 1) if (n := f"{directory.path.name}.other-{i}") not in taken)
        self._files.rename(directory.path, directory.path.with_name(name))
        return name

    def _start(self, trial: ActiveTrial, worker: str, nodes: int) -> None:
        """Start the trial's next attempt on a worker with so many nodes."""
        _look_again_at_abandoned(trial)
        trial.epochs, trial.is_verified = {}, False
        # Ranks that outlived their driver by a moment may have come to an end since.
        if self._needs_no_attempt(trial):
            return
        done = len(self._epochs(trial))
        if self._plan.layout_at(done).nodes != nodes:
            # They had come further than was known.
            self._waiting.insert(0, trial)
            return
        self._ledger.require_lease()
        attempt = trial.directory.new_attempt()
        request = self._plan.request(trial.number, attempt.number, self._pool.time_left_s(worker), done)
        attempt.write_request(request)
        self._training[trial.number], self._running[trial.number] = trial, request
        self._account.attempt_starts(trial.number, self._plan.site.nodes_of(request.layout))
        self._pool.start(request, worker)
        self._view.trial_started(trial.number, attempt.number, trial.parameters)
        log.info("trial %d attempt %d: started on %s with %s", trial.number, attempt.number, worker, trial.parameters)

    def _on_event(self, event: Event) -> None:
        match event:
            case EpochFinished(request, metrics):
                self._has_met = True
                self._view.epoch_finished(request.trial_number, metrics)
                if self._can_store():
                    if self._judge.decided_after(request.trial_number) is None:
                        self._ledger.record_epoch(request.trial_number, metrics)
                    self._judge_epoch(self._training[request.trial_number], request, metrics)
            case AttemptFinished(request, end, worker):
                trial = self._training.pop(request.trial_number)
                del self._running[request.trial_number]
                self._on_end(trial, replace(end, nodes=self._plan.site.nodes_of(request.layout)), worker)

    def _judge_epoch(self, trial: ActiveTrial, request: AttemptRequest, metrics: EpochMetrics) -> None:
        """The trial trains on meanwhile, and may be over before it hears of its verdict."""
        trial.epochs[metrics.epoch] = metrics
        verdict = self._judge.judge(trial.number, self._epochs(trial))
        if verdict is not Verdict.GO_ON and self._ending is None:
            self._pool.request_stop(request, Outcome.PRUNED if verdict is Verdict.STOP else Outcome.HELD)

    def _epochs(self, trial: ActiveTrial) -> list[EpochMetrics]:
        """All that the trial has trained, up to the first epoch that is not known.

        Without those of ranks that have not said what they train: their node may see an older folder for a while.
        """
        ends = [end for end in trial.ends if end.result is not None or end.communicator is not None]
        known = {metrics.epoch: metrics for metrics in merge_epochs(ends)}
        if trial.epochs:
            known |= self._epochs_under_way(
                trial, has_gap=sorted(known | trial.epochs) != [*range(len(known | trial.epochs))]
            )
        return [known[epoch] for epoch in itertools.takewhile(known.__contains__, itertools.count())]

    def _epochs_under_way(self, trial: ActiveTrial, has_gap: bool) -> dict[int, EpochMetrics]:
        attempt = trial.directory.attempt(self._running[trial.number].attempt_number)
        # What cannot be read now is judged by the next epoch.
        with suppress(OSError):
            if not trial.is_verified:
                report = attempt.read_communicator()
                trial.is_verified = report is not None and report.spec_sha256 in ("", trial.spec_sha256)
            if has_gap:
                # What a runner tells may be lost on its way; a line on disk is not.
                trial.epochs |= {metrics.epoch: metrics for metrics in attempt.read_metrics()}
        return trial.epochs if trial.is_verified else {}

    def _can_store(self) -> bool:
        """Whether the database may still be asked. What is not stored is in files."""
        return self._ending is None or not isinstance(self._ending.error, DatabaseLostError | LeaseError)

    def _on_end(self, trial: ActiveTrial, end: AttemptEnd, worker: str) -> None:
        end = _of_this_trial(end, trial)
        log.info("trial %d: attempt %d ended: %s %s", trial.number, len(trial.ends) + 1, end.name, end.reason)
        trial.ends.append(end)
        self._account.note_attempts(trial.number, trial.ends)
        self._durations.learn(end)
        self._has_met |= end.communicator is not None
        trial.epochs = {}
        if not self._can_store():
            return
        self._judge.judge(trial.number, self._epochs(trial))
        transition = self._transition(trial)
        if self._ending is not None and not (isinstance(transition, Tell) and end.result is not None):
            # What an end under a stop means is for the next driver to say.
            transition = TryAgain(f"{end.name}: {end.reason}".rstrip(": "))
        self._follow(trial, transition)
        self._judge_allocation(trial, end, worker)

    def _follow(self, trial: ActiveTrial, transition: Transition) -> None:
        match transition:
            case Tell() as tell:
                self._finish(trial, tell)
            case Halt(reason):
                # Nothing is stored: to the next driver, the attempt died with this one.
                raise self._halted(reason, trial)
            case Hold(reason):
                self._hold(trial, reason)
                self._ledger.record_attempts(trial.number, trial.ends)
            case TryAgain(reason):
                self._waiting.append(trial)
                self._view.trial_waits(trial.number, reason, bool(trial.directory.checkpoints()))
                self._ledger.record_attempts(trial.number, trial.ends)

    def _judge_allocation(self, trial: ActiveTrial, end: AttemptEnd, worker: str) -> None:
        """Give back an allocation in which attempts fail; tell it from a site at which all are like that.

        Raises:
            StudyHaltedError: One allocation after another could not run ranks.
        """
        failure = end.failure
        if failure is None:
            self._failures_of_worker[worker] = 0
            self._failed_allocations = 0
            return
        self._failures_of_worker[worker] += 1
        if failure.is_of_the_allocation or self._failures_of_worker[worker] >= _FAILURES_THAT_RETIRE:
            self._pool.retire(worker)
        if not failure.is_of_the_allocation:
            return
        self._failed_allocations += 1
        # On one machine there is nowhere else to try.
        may_be_one_node = self._has_met and self._plan.site.slurm is not None
        allowed = _MAX_FAILED_ALLOCATIONS if may_be_one_node else _MAX_FAILED_FIRST_ALLOCATIONS
        if self._failed_allocations >= allowed:
            site, count = self._plan.site, self._failed_allocations
            what = "start any rank" if failure is Failure.NOT_LAUNCHED else "train"
            reason = f"{site.launcher} could not {what}, {count} times in a row: {end.reason}"
            raise self._halted(f"{reason}. Put it right, or change site {site.name!r}", trial)

    def _halted(self, reason: str, trial: ActiveTrial) -> StudyHaltedError:
        return StudyHaltedError(
            f"{reason.rstrip('.;')}; then run the same command to go on. {trial.directory.path} holds the logs."
        )

    def _finish(self, trial: ActiveTrial, tell: Tell) -> None:
        """Tell a trial; one that failed not before another one has ended otherwise.

        Raises:
            StudyHaltedError: Several trials in a row have failed alike.
        """
        self._view.trial_finished(trial.number, tell)
        for earlier, its_tell in self._failures.add(trial, tell):
            self._tell(earlier, its_tell)
        if not self._failures.are_too_many():
            return
        failed = self._failures.take()
        for each, _ in failed:
            self._ledger.forgive(each.number, each.ends)
        numbers = ", ".join(str(each.number) for each, _ in failed)
        raise self._halted(
            f"trials {numbers} failed alike: {tell.outcome}: {tell.reason}. They are not told, and will be tried "
            "again: put it right",
            trial,
        )

    def _tell(self, trial: ActiveTrial, tell: Tell) -> None:
        _look_again_at_abandoned(trial)
        last_epoch = self._judge.decided_after(trial.number) if tell.state is TrialState.PRUNED else None
        self._ledger.finish(trial.number, tell, trial.ends, last_epoch)
        if self._outlook is not None:
            self._outlook.learn(trial_record(tell.outcome, tell.reason, trial.ends))
            self._look_ahead()
        log.info("trial %d: %s %s %s", trial.number, tell.state.name, tell.outcome, tell.reason)

    def _transition(self, trial: ActiveTrial) -> Transition:
        settings = self._plan.config.study
        ends = trial.ends_that_count
        if ends[-1].result is not None:
            # A result tells the whole trial, forgiven attempts included.
            ends = trial.ends
        verdict = self._judge.standing(trial.number)
        why = "" if verdict is Verdict.GO_ON else self._judge.reason(trial.number)
        retries = settings.crash_retries, settings.interruption_retries
        return next_transition(ends, settings.objective, *retries, verdict, why)


def _look_again_at_abandoned(trial: ActiveTrial) -> None:
    """Ranks live on for a moment without their driver: what was known of them when the next one came may be old."""
    for index, end in enumerate(trial.ends):
        if end.failure is Failure.ABANDONED:
            attempt = trial.directory.attempt(index + 1)
            again = _of_this_trial(attempt.end(Failure.ABANDONED, end.reason), trial)
            trial.ends[index] = replace(again, nodes=end.nodes)


def _of_this_trial(end: AttemptEnd, trial: ActiveTrial) -> AttemptEnd:
    """The end, unless its ranks trained something else: a node may see an older folder for a while."""
    told = [end.result.spec_sha256] if end.result is not None else []
    told += [end.communicator.spec_sha256] if end.communicator is not None else []
    other = next((sha256 for sha256 in told if sha256 not in ("", trial.spec_sha256)), None)
    if other is None:
        return end
    reason = f"its ranks trained specification {other[:12]}, not {trial.spec_sha256[:12]}"
    return AttemptEnd(None, end.failure or Failure.INTERRUPTED, reason, end.exit_code, end.wall_s, nodes=end.nodes)


def _recall(attempt: AttemptDir, stored: tuple[AttemptRow, ...]) -> AttemptEnd:
    """The end of an attempt of an earlier driver. One that left neither a result nor a row died with its driver."""
    row = stored[attempt.number - 1] if len(stored) >= attempt.number else None
    if row is not None and row.end in list(Failure):
        reason = row.reason or "no reason was stored"
        return attempt.end(Failure(row.end), reason, row.exit_code, row.wall_s)
    return attempt.end(Failure.ABANDONED, "its driver ended before it")
