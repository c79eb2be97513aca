"""A study with a pruner, whose ranks train as a function says, and whose driver may be killed after any write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from cluster.pool import Event
from storage.database import schema
from storage.database.schema import VerdictRow
from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure
from storage.protocol.records import EpochMetrics, Outcome, TrialResult
from storage.protocol.trial_dir import AttemptDir, TrialDir
from study.forecast.outlook import Outlook
from study.ledger import Ledger
from study.loop import StudyLoop
from study.opening import bind_folder, open_study
from study.samplers import RandomByTrialNumber
from tests.storage.protocol.example_records import METRICS, REPORT
from tests.study.fakes import DirectCalls, FakeClock, FakePool, FakeStop, FakeView, HeldLease, new_plan

_WRITES = ("create_new_trial", "set_trial_user_attr", "set_trial_state_values", "set_trial_intermediate_value")
MAX_STEPS = 3000

Scores = Callable[[int, int], float]
"""From a trial's number and an epoch to its score."""


class DriverKilledError(BaseException):
    """Nothing of the driver runs any more."""


class DeadlyStorage(InMemoryStorage):
    """Its driver dies just after a write."""

    writes = 0
    dies_after: int | None = None
    dies_at_attribute: str | None = None
    """As soon as a trial gets it."""

    def _count(self, arguments: tuple[Any, ...]) -> None:
        self.writes += 1
        if self.writes == self.dies_after or (self.dies_at_attribute and self.dies_at_attribute in arguments):
            self.dies_after = self.dies_at_attribute = None
            raise DriverKilledError


def _deadly(name: str) -> Callable[..., Any]:
    def method(self: DeadlyStorage, *arguments: Any, **options: Any) -> Any:
        result = getattr(InMemoryStorage, name)(self, *arguments, **options)
        self._count(arguments)
        return result

    return method


for _name in _WRITES:
    setattr(DeadlyStorage, _name, _deadly(_name))


@dataclass
class Ranks:
    """What the ranks' files say, whoever drives the study."""

    scores: Scores
    epochs: int
    batch_size: Callable[[int], int] = lambda epoch: 16
    history: dict[int, list[EpochMetrics]] = field(default_factory=dict)
    trained: list[tuple[int, int]] = field(default_factory=list)

    def train(self, trial: int) -> EpochMetrics:
        history = self.history.setdefault(trial, [])
        epoch = len(history)
        metrics = replace(
            METRICS,
            epoch=epoch,
            f1_micro=self.scores(trial, epoch),
            scores={},
            wall_s=15.0,
            global_batch_size=self.batch_size(epoch),
        )
        history.append(metrics)
        self.trained.append((trial, epoch))
        return metrics

    def is_over(self, trial: int) -> bool:
        return len(self.history.get(trial, [])) >= self.epochs


@dataclass
class TrainingPool(FakePool):
    """One step of each attempt at a time: an epoch, or its end.

    Args:
        lag: Epochs that ranks train on after they have been asked to stop.
    """

    ranks: Ranks = field(default_factory=lambda: Ranks(lambda trial, epoch: 0.5, 2))
    lag: int = 0
    is_lost_when_asked: bool = False
    asked: dict[str, tuple[Outcome, int]] = field(default_factory=dict)

    def request_stop(self, request: AttemptRequest, outcome: Outcome) -> None:
        super().request_stop(request, outcome)
        self.asked.setdefault(request.key, (outcome, self.lag))

    def next_event(self, timeout_s: float) -> Event | None:
        if not self.events:
            for request in list(self.running.values()):
                self._advance(request)
        return super().next_event(timeout_s)

    def die(self, epochs: int) -> None:
        """The driver is gone: ranks train on for so long and pause, and nobody hears of it."""
        for request in self.running.values():
            attempt = _attempt_of(request)
            for _ in range(epochs):
                if not self.ranks.is_over(request.trial_number) and self._has_its_ranks(request):
                    attempt.append_metrics(self.ranks.train(request.trial_number))
            self._write_result(request, Outcome.PAUSED)

    def _advance(self, request: AttemptRequest) -> None:
        trial = request.trial_number
        _attempt_of(request).write_communicator(REPORT)
        outcome, left = self.asked.get(request.key, (None, 1))
        if self.ranks.is_over(trial):
            self._end(request, Outcome.COMPLETED)
        elif not self._has_its_ranks(request):
            self._end(request, Outcome.HELD)
        elif outcome is not None and self.is_lost_when_asked:
            epochs = tuple(_attempt_of(request).read_metrics())
            self.tell_end(request, AttemptEnd(None, Failure.INTERRUPTED, "its node failed", 137, 36.0, epochs, REPORT))
        elif outcome is not None and left == 0:
            self._end(request, outcome)
        else:
            if outcome is not None:
                self.asked[request.key] = outcome, left - 1
            metrics = self.ranks.train(trial)
            _attempt_of(request).append_metrics(metrics)
            self.tell_epoch(request, metrics)

    def _has_its_ranks(self, request: AttemptRequest) -> bool:
        epoch = len(self.ranks.history.get(request.trial_number, []))
        return TrialDir(request.trial_dir).read_spec().world_size_at(epoch) == request.layout.world_size

    def _end(self, request: AttemptRequest, outcome: Outcome) -> None:
        result = self._write_result(request, outcome)
        epochs = tuple(_attempt_of(request).read_metrics())
        self.tell_end(request, AttemptEnd(result, wall_s=36.0, epochs=epochs, communicator=REPORT))

    def _write_result(self, request: AttemptRequest, outcome: Outcome) -> TrialResult:
        history = tuple(self.ranks.history.get(request.trial_number, []))
        attempt = _attempt_of(request)
        result = TrialResult(outcome, len(history), epochs=history, spec_sha256=attempt.trial.spec_sha256())
        attempt.write_result(result)
        return result


def _attempt_of(request: AttemptRequest) -> AttemptDir:
    return TrialDir(request.trial_dir).attempt(request.attempt_number)


@dataclass
class PrunedStudy:
    """Driven to its end, by one driver after the other."""

    folder: Path
    scores: Scores
    overrides: tuple[str, ...]
    epochs: int
    lag: int = 0
    slots: int = 1
    is_lost_when_asked: bool = False
    batch_size: Callable[[int], int] = lambda epoch: 16
    view: FakeView = field(default_factory=FakeView)
    stop: FakeStop = field(default_factory=FakeStop)
    held: dict[str, float] | None = None
    """Node-seconds of allocations."""
    outlook: Outlook | None = None
    on_start: Callable[[AttemptRequest], None] = lambda request: None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.storage = DeadlyStorage()
        self.clock = FakeClock()
        self.ranks = Ranks(self.scores, self.epochs, self.batch_size)
        self.plan = new_plan(self.folder, f"training.epochs={self.epochs}", *self.overrides, at_once=self.slots)

    def drive(self) -> None:
        """One driver, to its end."""
        self.pool = TrainingPool(self.clock, slots=self.slots, ranks=self.ranks, lag=self.lag)
        self.pool.is_lost_when_asked, self.pool.held = self.is_lost_when_asked, self.held
        self.pool.on_start = self.on_start
        self.loop = self._new_loop()
        for _ in range(MAX_STEPS):
            if self.loop.step(0.5):
                return
        raise AssertionError(f"the loop has not ended after {MAX_STEPS} steps: {self.view.said}")

    def drive_and_die(self, after: int, ranks_train_on: int = 0) -> bool:
        """A driver that is killed after so many writes, and another one to the end. Gives whether the first was."""
        self.storage.dies_after = after
        try:
            self.drive()
        except DriverKilledError:
            self.pool.die(ranks_train_on)
            self.drive()
            return True
        return False

    def _new_loop(self) -> StudyLoop:
        settings = self.plan.config.study
        study = open_study(self.storage, self.plan, RandomByTrialNumber(settings.seed))
        uuid = bind_folder(study, self.plan.folder, None, False, self.view.notice)
        ledger = Ledger(
            study,
            self.storage,
            self.plan.config.search_space,
            settings.goals,
            settings.limit,
            DirectCalls(),
            HeldLease(),
            self.clock,
            self.view.notice,
            self.stop.is_requested,
            self.clock.pause,
        )
        return StudyLoop(self.plan, uuid, ledger, self.pool, self.view, self.stop, self.clock, outlook=self.outlook)

    @property
    def trials(self) -> list[FrozenTrial]:
        [study] = self.storage.get_all_studies()
        return self.storage.get_all_trials(study._study_id)

    @property
    def states(self) -> str:
        """A letter for each trial."""
        return "".join(trial.state.name[0] for trial in self.trials)

    def verdicts(self) -> list[tuple[int, VerdictRow]]:
        """All of them, in order, with their trials."""
        rows = [(trial.number, row) for trial in self.trials for row in schema.read_verdicts(trial.user_attrs)]
        return sorted(rows, key=lambda pair: pair[1].order)
