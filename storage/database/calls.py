"""Calls of a database that may stall: none of them keeps its caller for longer than it wants to wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class StalledError(TimeoutError):
    """The database has been silent for longer than its caller waits. What it was asked may still happen."""


class DatabaseCalls(Protocol):
    def call(self, action: Callable[[], Result], is_over: Callable[[float], bool]) -> Result:
        """Run an action of the database.

        Args:
            is_over: Asked several times a second, with the seconds waited so far, whether to wait no more.

        Raises:
            StalledError: It was time to wait no more. Until the stalled action ends, every further call is one, too.
        """
        ...


class ThreadedCalls:
    """In a thread of its own: no time limit of a driver covers a server that has been stopped in mid-answer."""

    _LOOK_EVERY_S = 0.2

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._stalled: _Task | None = None
        threading.Thread(target=self._work, name="database", daemon=True).start()

    def call(self, action: Callable[[], Result], is_over: Callable[[float], bool]) -> Result:
        task = _Task(action)
        if self._stalled is not None:
            self._wait(self._stalled, is_over)
            self._stalled = None
        self._tasks.put(task)
        self._wait(task, is_over)
        if task.error is not None:
            raise task.error
        return task.result

    def _wait(self, task: _Task, is_over: Callable[[float], bool]) -> None:
        waited_s = 0.0
        while not task.done.wait(self._LOOK_EVERY_S if waited_s else 0.0):
            if is_over(waited_s):
                self._stalled = task
                raise StalledError(f"it has not answered for {waited_s:.0f} s")
            waited_s += self._LOOK_EVERY_S

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task.result = task.action()
            except BaseException as error:  # noqa: BLE001  it is the caller's
                task.error = error
            task.done.set()


class _Task:
    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()
