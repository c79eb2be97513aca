"""What a study needs around it, for tests of one part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from cluster.pool import AttemptFinished, EpochFinished, Event
from cluster.profile import load_site
from storage.protocol.attempts import AttemptEnd, AttemptRequest
from storage.protocol.records import EpochMetrics, Outcome
from study.config import load_config
from study.plan import StudyPlan
from study.transitions import Tell
from tests.study.small_study import write_config


@dataclass
class FakeClock:
    """Passes when somebody waits."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def unix(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


class DirectCalls:
    """Calls of a database that always answers."""

    def call(self, action: Callable[[], Any], is_over: Callable[[float], bool]) -> Any:
        return action()


class HeldLease:
    def require(self) -> None:
        """It is always this driver's."""


@dataclass
class FakePool:
    """Workers that are there, and whose attempts end as the test says.

    Args:
        clock: Passes while the pool is asked for events.
    """

    clock: FakeClock
    walltime_s: float = float("inf")
    slots: int = 1
    wanted: Mapping[int, int] = field(default_factory=dict)
    running: dict[str, AttemptRequest] = field(default_factory=dict)
    started: list[AttemptRequest] = field(default_factory=list)
    stopped: list[tuple[str, Outcome]] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    time_left: float = float("inf")
    on_start: Callable[[AttemptRequest], None] = lambda request: None
    error: Exception | None = None
    is_hurried: bool = False
    held: dict[str, float] | None = None
    """Node-seconds by allocation."""

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *arguments: object) -> None:
        pass

    def ask_for(self, workers: Mapping[int, int]) -> None:
        if self.error is not None:
            raise self.error
        self.wanted = workers

    def idle_workers(self) -> dict[str, int]:
        return {f"w{n}": 1 for n in range(self.slots) if f"w{n}" not in self.running}

    def time_left_s(self, worker: str) -> float:
        return self.time_left

    def start(self, request: AttemptRequest, worker: str) -> None:
        self.running[worker] = request
        self.started.append(request)
        self.on_start(request)

    def hurry(self) -> None:
        self.is_hurried = True

    def request_stop(self, request: AttemptRequest, outcome: Outcome) -> None:
        self.stopped.append((request.key, outcome))

    def next_event(self, timeout_s: float) -> Event | None:
        self.clock.pause(timeout_s)
        return self.events.pop(0) if self.events else None

    def retire(self, worker: str) -> None:
        self.retired.append(worker)

    def allocations(self) -> dict[str, float] | None:
        return self.held

    def notices(self) -> list[str]:
        return []

    def left_behind(self) -> list[str]:
        return []

    # What the test says.

    def tell_epoch(self, request: AttemptRequest, metrics: EpochMetrics) -> None:
        self.events.append(EpochFinished(request, metrics))

    def tell_end(self, request: AttemptRequest, end: AttemptEnd) -> None:
        worker = next(name for name, running in self.running.items() if running == request)
        del self.running[worker]
        self.events.append(AttemptFinished(request, end, worker))


@dataclass
class FakeView:
    said: list[str] = field(default_factory=list)
    told_of_spent: list[str] = field(default_factory=list)

    def trial_started(self, number: int, attempt: int, parameters: dict[str, Any]) -> None:
        self.said.append(f"trial {number} started, attempt {attempt}")

    def epoch_finished(self, number: int, metrics: EpochMetrics) -> None:
        self.said.append(f"trial {number} epoch {metrics.epoch}")

    def trial_waits(self, number: int, reason: str, has_checkpoint: bool) -> None:
        self.said.append(f"trial {number} waits: {reason}")

    def trial_held(self, number: int, reason: str) -> None:
        self.said.append(f"trial {number} held: {reason}")

    def trial_promoted(self, number: int, reason: str) -> None:
        self.said.append(f"trial {number} promoted: {reason}")

    def trial_finished(self, number: int, tell: Tell) -> None:
        self.said.append(f"trial {number} {tell.outcome}")

    def progressed(self, finished: int, total: int) -> None:
        pass

    def spent(self, words: str) -> None:
        if words not in self.told_of_spent:
            self.told_of_spent.append(words)

    def notice(self, text: str) -> None:
        self.said.append(f"note: {text}")


@dataclass
class FakeStop:
    requests: int = 0
    signal_name: str = "SIGINT"

    def is_requested(self) -> bool:
        return self.requests > 0

    def is_urgent(self) -> bool:
        return self.requests > 1


def new_plan(folder: Path, *overrides: str, at_once: int = 1) -> StudyPlan:
    """The plan of the small study, with its folder in `folder`, on a machine for so many trials of two ranks."""
    config = load_config(write_config(folder), [f'study.runs_dir="{folder / "runs"}"', *overrides])
    url = make_url(f"sqlite:///{folder}/study.db")
    site = load_site("local", [f"max_concurrent_trials={at_once}"])
    return StudyPlan.make(config, site, cores=2 * at_once, database=url)
