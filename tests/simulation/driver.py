"""A driver: the product's own loop, ledger, lease and pool, around it only what the world gives them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna

from cluster.job_pool import JobPool, PoolSettings
from cluster.pool import Event
from cluster.reconcile import Jobs, Limits
from storage.database.lease import RENEW_EVERY_S, LeaseError, LeaseRow, StudyLease
from storage.protocol.attempts import AttemptEnd, AttemptRequest
from storage.protocol.records import EpochMetrics, Outcome
from storage.protocol.trial_dir import TrialDir
from study.ledger import Ledger
from study.loop import StudyLoop
from study.opening import bind_folder, open_study
from study.samplers import RandomByTrialNumber
from tests.simulation.cluster import WALLTIME_S, SimulatedBatchSystem
from tests.simulation.database import DriversStorage, SimulatedCalls, SimulatedLeaseStore
from tests.simulation.files import MachineFiles
from tests.simulation.runner import SimulatedRunner
from tests.simulation.world import SimulatedClock, World

if TYPE_CHECKING:
    from tests.simulation.universe import Universe

_STEP_S = 3.0
_TICK_S = 2.0


class DriverKilledError(BaseException):
    """The driver is dead: whatever it was doing, it does no more."""


class SimulatedLink:
    """What Dask does between a driver and its runners."""

    def __init__(self, driver: SimulatedDriver) -> None:
        self._driver, self._world = driver, driver.world
        self.runners: dict[str, SimulatedRunner] = {}

    def connect(self, on_epoch: Callable[[str, EpochMetrics], None], on_end: Callable[[str, AttemptEnd], None]) -> None:
        self.on_epoch, self.on_end = on_epoch, on_end

    def present(self) -> frozenset[str]:
        return frozenset(self.runners)

    def start(self, runner: str, request: AttemptRequest) -> None:
        self._driver.check_alive()
        if (there := self.runners.get(runner)) is not None:
            self._world.after(self._delay_s(), lambda: there.start(request))

    def send_stop(self, runner: str, key: str, outcome: Outcome) -> None:
        self._driver.check_alive()
        there = self.runners.get(runner)
        if there is not None and not self._world.chance(0.1):
            self._world.after(self._delay_s(), lambda: there.stop(key, outcome))

    def forget(self, key: str) -> None:
        pass

    def address(self) -> str:
        return "tls://driver"

    def close(self) -> None:
        self.break_connections()

    def runner_came(self, runner: SimulatedRunner) -> None:
        self.runners[runner.name] = runner

    def runner_left(self, name: str) -> None:
        self.runners.pop(name, None)

    def deliver(self, happen: Callable[[], None]) -> None:
        """A runner's word, after the time that it takes."""

        def arrive() -> None:
            if self._driver.is_alive:
                happen()

        self._world.after(self._delay_s(), arrive)

    def break_connections(self) -> None:
        runners, self.runners = self.runners, {}
        for runner in runners.values():
            self._world.after(self._delay_s(), runner.driver_is_gone)

    def _delay_s(self) -> float:
        return self._world.between(0.0, 8.0) if self._world.chance(0.02) else 0.05


class SimulatedEvents:
    """The loop's queue, whose waiting lets time pass elsewhere: a step is an event."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(event)

    def get(self, timeout_s: float) -> Event | None:
        return self._events.pop(0) if self._events else None

    def __len__(self) -> int:
        return len(self._events)


class RecordingView:
    """A view that remembers."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def trial_started(self, number: int, attempt: int, parameters: dict[str, Any]) -> None:
        self._world.log(self._name, f"trial {number} started, attempt {attempt}")

    def epoch_finished(self, number: int, metrics: EpochMetrics) -> None:
        pass

    def trial_waits(self, number: int, reason: str, has_checkpoint: bool) -> None:
        assert reason
        assert "exit code -1" not in reason
        self._world.log(self._name, f"trial {number} waits: {reason}")

    def trial_held(self, number: int, reason: str) -> None:
        self._world.log(self._name, f"trial {number} is held: {reason}")

    def trial_promoted(self, number: int, reason: str) -> None:
        self._world.log(self._name, f"trial {number} is promoted: {reason}")

    def trial_finished(self, number: int, tell: Any) -> None:
        self._world.log(self._name, f"trial {number}: {tell.outcome} {tell.reason}")

    def progressed(self, finished: int, total: int) -> None:
        pass

    def spent(self, words: str) -> None:
        pass

    def notice(self, text: str) -> None:
        self._world.log(self._name, f"note: {text}")


class SimulatedDriver:
    """One run of `python study/run.py`."""

    def __init__(self, universe: Universe, number: int, login_node: str) -> None:
        self.universe, self.world = universe, universe.world
        self.name, self.login_node = f"driver {number}", login_node
        self.is_alive = True
        self.is_running = True
        """Until its command has ended."""
        self.error: BaseException | None = None
        self.stopped_until_s = 0.0
        self.ends_by_s = float("inf")
        self._signals = 0
        self.link = SimulatedLink(self)
        self._pool: JobPool | None = None
        self._lease: StudyLease | None = None
        self._loop: StudyLoop | None = None
        self._events = SimulatedEvents()
        self._is_in_tick = False
        self.left_behind: list[str] = []
        self.has_ended = False
        """And has not been killed."""

    # What a person and the machine do to it.

    def begin(self) -> None:
        self.world.log(self.name, f"begins on {self.login_node}")
        self._guard(self._open)

    def signal(self) -> None:
        if self.is_alive and self._loop is not None:
            self.world.log(self.name, "gets a signal")
            self._signals += 1
            hears_s = max(self.world.now_s, self.stopped_until_s)
            self.ends_by_s = min(self.ends_by_s, hears_s + self.universe.longest_end_s)

    def kill(self) -> None:
        if self.is_alive:
            self.world.log(self.name, "is killed")
            self._die()

    def stop_for(self, seconds: float) -> None:
        """Ctrl-Z, or a machine that is suspended."""
        self.world.log(self.name, f"is stopped for {seconds:.0f} s")
        self.stopped_until_s = max(self.stopped_until_s, self.world.now_s + seconds)
        if self.ends_by_s < float("inf"):
            self.ends_by_s += seconds

    # What the simulated world asks of it.

    def ranks_under_way(self) -> int:
        return 0 if self._loop is None else sum(r.layout.world_size for r in self._loop._running.values())

    def check_alive(self) -> None:
        while self.is_alive and self.world.now_s < self.stopped_until_s:
            self.world.advance(self.stopped_until_s - self.world.now_s)
        if not self.is_alive:
            raise DriverKilledError

    def may_die(self, when: str) -> None:
        if self.world.chance(0.002):
            self.world.log(self.name, f"dies {when}")
            self._die()
        self.check_alive()

    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.check_alive()

    # The stop request, as the loop sees it.

    def is_requested(self) -> bool:
        return self._signals > 0

    def is_urgent(self) -> bool:
        return self._signals > 1

    signal_name = "SIGINT"

    def _open(self) -> None:
        universe = self.universe
        universe.require_study_is_known()
        files = MachineFiles(universe.shared, self.login_node, fault_rate=0.0005)
        me = LeaseRow(f"{self.name}", 0, self.login_node, 1, self.name, self.login_node)
        lease = StudyLease(
            SimulatedLeaseStore(universe.database, self),
            SimulatedClock(self.world),
            me,
            self.wait,
            universe.is_driver_alive,
        )
        lease.acquire(lambda text: self.world.log(self.name, text))
        self._lease = lease
        self.world.after(RENEW_EVERY_S, self._renew)
        plan = replace(universe.plan, config=universe.plan.config)
        storage = DriversStorage(universe.database, self)
        study = open_study(storage, plan, RandomByTrialNumber(plan.config.study.seed))
        view = RecordingView(self.world, self.name)
        study_uuid = bind_folder(
            study, plan.folder, None, universe.person_adopts, view.notice, files, universe.new_uuid
        )
        clock = SimulatedClock(self.world)
        settings = plan.config.study
        ledger = Ledger(
            study,
            storage,
            plan.config.search_space,
            settings.goals,
            settings.limit,
            SimulatedCalls(universe.database, self),
            lease,
            clock,
            view.notice,
            self.is_requested,
            self.wait,
        )
        limits = Limits(pending_notice_s=100.0)
        self._pool = JobPool(
            SimulatedBatchSystem(universe.cluster, self),
            self.link,
            Jobs(f"study-{self.name.split()[1]}-"),
            PoolSettings(limits, WALLTIME_S, queue_every_s=10.0),
            clock,
            lambda request: TrialDir(request.trial_dir, files).attempt(request.attempt_number),
            self._events,
        )
        self._loop = StudyLoop(plan, study_uuid, ledger, self._pool, view, self, clock, files)
        self._tick()
        self.world.after(0.0, self._step)

    def _renew(self) -> None:
        if not self.is_running or not self.is_alive or self._lease is None:
            return
        if self.world.now_s >= self.stopped_until_s:
            with suppress(optuna.exceptions.StorageInternalError, LeaseError):
                self._lease.renew()
        self.world.after(RENEW_EVERY_S, self._renew)

    def _tick(self) -> None:
        if not self.is_running or not self.is_alive or self._pool is None:
            return
        if self.world.now_s < self.stopped_until_s:
            self.world.after(self.stopped_until_s - self.world.now_s, self._tick)
            return
        self._is_in_tick = True
        with suppress(DriverKilledError):
            self._pool.tick()
        self._is_in_tick = False
        self.world.after(_TICK_S, self._tick)

    def _step(self) -> None:
        if self.world.now_s < self.stopped_until_s:
            self.world.after(self.stopped_until_s - self.world.now_s, self._step)
            return
        if self._is_in_tick:
            # Frames of one process lie on top of one another: the keeper would have to wait for the loop.
            self.world.after(0.5, self._step)
            return
        self._guard(self._step_once)

    def _step_once(self) -> None:
        self.check_alive()
        assert self._loop is not None
        if self._loop.step(0.0):
            self._end()
        else:
            self.may_die("between two steps")
            self.world.after(0.05 if len(self._events) else _STEP_S, self._step)

    def _guard(self, action: Callable[[], None]) -> None:
        """As run.py does with what the study ends by."""
        try:
            action()
        except DriverKilledError:
            self.is_running = False
        except (RuntimeError, OSError, ValueError, optuna.exceptions.OptunaError) as error:
            self.universe.require_expected(error)
            self.error = error
            self.world.log(self.name, f"error: {type(error).__name__}: {error}")
            with suppress(DriverKilledError):
                self._end()

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.give_back_all()
            self.left_behind = list(self._pool.left_behind())
            self._pool = None
        self.link.close()
        if self._lease is not None:
            with suppress(optuna.exceptions.StorageInternalError):
                self._lease.release()
        self.is_alive = self.is_running = False
        self.has_ended = True
        self.world.log(self.name, "has ended")

    def _die(self) -> None:
        self.is_alive = self.is_running = False
        self.link.break_connections()
