"""The study's database: slow, away, refusing, and with commits whose answer is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from storage.database import schema
from storage.database.calls import StalledError
from storage.database.lease import LeaseRow
from tests.simulation.world import InvariantError, World

if TYPE_CHECKING:
    from tests.simulation.driver import SimulatedDriver

Result = TypeVar("Result")


class Database:
    """The server: what is committed is committed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.reset()
        self.away_until_s = 0.0
        """It refuses connections."""
        self.stalled_until_s = 0.0
        """It takes them, and does not answer."""

    def reset(self) -> None:
        """Somebody has lost it."""
        self.storage = InMemoryStorage()
        self.lease: LeaseRow | None = None
        self.told: dict[int, float | None] = {}
        self.verdict_s: dict[int, float] = {}
        """When there was last a verdict on a trial, by its id."""

    def note_told(self, trial_id: int, state: TrialState, values: Any) -> None:
        if trial_id in self.told:
            raise InvariantError(f"trial with id {trial_id} is told twice")
        self.told[trial_id] = values[0] if values else None
        number = self.storage.get_trial(trial_id).number
        self.world.log("database", f"trial {number} is {state.name} with {self.told[trial_id]}")


def _delegate(name: str) -> Callable[..., Any]:
    def method(self: DriversStorage, *arguments: Any, **options: Any) -> Any:
        return self._do(name, arguments, options)

    method.__name__ = name
    return method


class DriversStorage(BaseStorage):
    """Optuna's storage interface, as one driver has it."""

    def __init__(self, database: Database, driver: SimulatedDriver) -> None:
        self._database, self._driver = database, driver
        self._server = database.storage

    def _do(self, name: str, arguments: tuple, options: dict) -> Any:
        world = self._database.world
        self._driver.check_alive()
        if world.now_s < self._database.away_until_s or world.chance(0.002):
            raise StorageInternalError("the server closed the connection")
        before = name == "set_trial_state_values" and self._is_finished(arguments, options)
        result = getattr(self._server, name)(*arguments, **options)
        if name == "set_trial_user_attr" and schema.VERDICTS in arguments:
            self._database.verdict_s[arguments[0]] = world.now_s
        if name == "set_trial_state_values" and not before:
            self._note_told(arguments, options)
        if name.startswith(("set_", "create_")):
            self._driver.may_die(f"after {name}")
            if world.chance(0.002):
                raise StorageInternalError("the connection broke before the answer came")
        return result

    def _is_finished(self, arguments: tuple, options: dict) -> bool:
        trial_id = options.get("trial_id", arguments[0] if arguments else None)
        return self._server.get_trial(trial_id).state.is_finished()

    def _note_told(self, arguments: tuple, options: dict) -> None:
        names = ("trial_id", "state", "values")
        given = dict(zip(names, arguments, strict=False)) | options
        if given["state"].is_finished():
            self._database.note_told(given["trial_id"], given["state"], given.get("values"))


for _name in (
    *BaseStorage.__abstractmethods__,
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_n_trials",
    "get_best_trial",
):
    setattr(DriversStorage, _name, _delegate(_name))
DriversStorage.__abstractmethods__ = frozenset()


class SimulatedCalls:
    """What a driver's database thread does, without a thread."""

    def __init__(self, database: Database, driver: SimulatedDriver) -> None:
        self._database, self._driver = database, driver
        self._stalled: Callable[[], Any] | None = None

    def call(self, action: Callable[[], Result], is_over: Callable[[float], bool]) -> Result:
        world = self._database.world
        if world.chance(0.01):
            self._driver.wait(world.between(0.0, 3.0))
        waited_s = 0.0
        while world.now_s < self._database.stalled_until_s:
            if is_over(waited_s):
                # It may still happen.
                self._stalled = action if world.random.random() < 0.5 else None
                raise StalledError(f"it has not answered for {waited_s:.0f} s")
            self._driver.wait(1.0)
            waited_s += 1.0
        self._catch_up()
        return action()

    def _catch_up(self) -> None:
        stalled, self._stalled = self._stalled, None
        if stalled is not None:
            try:
                stalled()
            except Exception as error:  # noqa: BLE001  nobody waits for it any more
                self._database.world.log(self._driver.name, f"a stalled call failed: {error}")


class SimulatedLeaseStore:
    def __init__(self, database: Database, driver: SimulatedDriver) -> None:
        self._database, self._driver = database, driver

    def read(self) -> LeaseRow | None:
        self._reach()
        return self._database.lease

    def swap(self, old: LeaseRow | None, new: LeaseRow | None) -> bool:
        self._reach()
        if self._database.lease != old:
            return False
        self._database.lease = new
        if self._database.world.chance(0.01):
            raise StorageInternalError("the connection broke before the answer came")
        return True

    def _reach(self) -> None:
        self._driver.check_alive()
        world = self._database.world
        if world.now_s < max(self._database.away_until_s, self._database.stalled_until_s):
            raise StorageInternalError("the server closed the connection")
