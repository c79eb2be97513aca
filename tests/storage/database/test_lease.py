"""One driver per study: real processes and real databases, and a clock that the test turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import create_engine

from storage.database.lease import (
    LEASE_S,
    DatabaseLeaseStore,
    LeaseError,
    LeaseLostError,
    LeaseRow,
    StudyLease,
    this_driver,
)
from storage.protocol.variables import STORAGE_PASSWORD
from tests.architecture.sources import REPOSITORY

ELSEWHERE = LeaseRow("a" * 32, 3, "another machine", 17, "1.5", "login2")

HOLD_UNTIL_TOLD = """
import sys
from sqlalchemy import create_engine
from storage.database.lease import *
from storage.protocol.clock import SYSTEM_CLOCK
store = DatabaseLeaseStore(create_engine(sys.argv[1]), "s")
lease = StudyLease(store, SYSTEM_CLOCK, this_driver(), lambda seconds: None)
lease.acquire(print)
print("held", flush=True)
sys.stdin.read()
lease.release()
"""


@dataclass
class Clock:
    now_s: float = 0.0
    said: list[str] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now_s

    def unix(self) -> float:
        raise AssertionError("clocks of several machines are never compared")

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    postgres = request.getfixturevalue("postgres")
    name = f"lease_{abs(hash(request.node.nodeid)) % 10**9}"
    return postgres.create_database(name).replace("postgresql://ada@", f"postgresql+psycopg://ada:{postgres.password}@")


@pytest.fixture
def store(url: str) -> DatabaseLeaseStore:
    return DatabaseLeaseStore(create_engine(url), "s")


def new_lease(store, clock: Clock, me: LeaseRow | None = None) -> StudyLease:
    return StudyLease(store, clock, me or this_driver(), clock.pause)


@contextmanager
def other_process_holding(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease until its input ends."""
    command = [sys.executable, "-c", HOLD_UNTIL_TOLD, url]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_driver_on_this_machine_is_refused_at_once_and_told_who_the_first_one_is(store, url, clock):
    with other_process_holding(url) as first, pytest.raises(LeaseError) as refused:
        new_lease(store, clock).acquire(clock.said.append)

    assert f"is being run by process {first.pid} on " in str(refused.value)
    assert clock.now_s == 0.0


def test_a_refused_driver_leaves_the_lease_as_it_is(store, url, clock):
    with other_process_holding(url):
        before = store.read()
        for _ in range(2):
            with pytest.raises(LeaseError):
                new_lease(store, clock).acquire(clock.said.append)
        assert store.read() == before


def test_a_driver_that_has_ended_leaves_the_study_free(store, url, clock):
    with other_process_holding(url):
        pass

    new_lease(store, clock).acquire(clock.said.append)
    assert clock.now_s == 0.0


def test_a_driver_that_was_killed_on_this_machine_leaves_the_study_free_at_once(store, url, clock):
    with other_process_holding(url) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()

        new_lease(store, clock).acquire(clock.said.append)

    assert clock.now_s == 0.0
    assert store.read().process == os.getpid()


def test_a_process_that_has_the_number_of_one_that_died_is_not_taken_for_it(store, clock):
    store.swap(None, replace(this_driver(), process_started="long ago"))

    new_lease(store, clock).acquire(clock.said.append)


def test_a_silent_driver_of_another_machine_is_waited_for_and_then_replaced(store, clock):
    store.swap(None, ELSEWHERE)

    new_lease(store, clock).acquire(clock.said.append)

    assert LEASE_S <= clock.now_s <= LEASE_S + 2
    assert clock.said == [
        "process 17 on login2 drove this study and has not given it back; waiting up to 60 s for a sign of life"
    ]


def test_a_driver_of_another_machine_that_gives_a_sign_of_life_keeps_the_study(store, clock):
    store.swap(None, ELSEWHERE)

    def pause_until_it_beats(seconds: float) -> None:
        clock.pause(seconds)
        if clock.now_s > LEASE_S / 2:
            store.swap(ELSEWHERE, replace(ELSEWHERE, beat=4))

    with pytest.raises(LeaseError, match="is being run by process 17 on login2"):
        StudyLease(store, clock, this_driver(), pause_until_it_beats).acquire(clock.said.append)


def test_of_two_drivers_that_wait_for_a_dead_one_exactly_one_gets_the_study(store, url, clock):
    store.swap(None, ELSEWHERE)
    other_clock = Clock()
    outcomes: list[str] = []

    def drive(clock: Clock, barrier: threading.Barrier) -> None:
        own = DatabaseLeaseStore(create_engine(url), "s")
        me = replace(this_driver(), machine=f"machine {id(clock)}")

        def pause(seconds: float) -> None:
            clock.pause(seconds)
            if clock.now_s >= LEASE_S:
                barrier.wait(30)

        try:
            StudyLease(own, clock, me, pause).acquire(clock.said.append)
            outcomes.append("held")
        except LeaseError:
            outcomes.append("refused")

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=drive, args=(each, barrier)) for each in (clock, other_clock)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(outcomes) == ["held", "refused"]


def test_a_driver_that_was_stopped_for_long_writes_nothing_any_more(store, clock):
    stopped = new_lease(store, clock)
    stopped.acquire(clock.said.append)
    stopped.require()

    clock.pause(10 * LEASE_S)
    taker = new_lease(store, Clock(), replace(ELSEWHERE, holder="b" * 32))
    taker._store.swap(store.read(), replace(ELSEWHERE, holder="b" * 32))

    with pytest.raises(LeaseLostError, match="taken over by process 17 on login2"):
        stopped.require()
    with pytest.raises(LeaseLostError):
        stopped.require()
    stopped.release()
    assert store.read().holder == "b" * 32


def test_a_driver_that_was_stopped_while_nobody_else_came_goes_on(store, clock):
    lease = new_lease(store, clock)
    lease.acquire(clock.said.append)
    clock.pause(10 * LEASE_S)

    lease.require()


def test_a_sign_of_life_whose_answer_was_lost_is_no_loss_of_the_lease(store, clock):
    lease = new_lease(store, clock)
    lease.acquire(clock.said.append)
    swap = store.swap

    def commit_and_forget(old, new) -> bool:
        assert swap(old, new)
        return False

    store.swap = commit_and_forget
    lease.renew()
    store.swap = swap
    lease.renew()

    assert store.read().beat == 2


def test_studies_of_one_database_have_leases_of_their_own(store, url, clock):
    with other_process_holding(url):
        other_study = DatabaseLeaseStore(create_engine(url), "t")

        new_lease(other_study, clock).acquire(clock.said.append)


def test_stock_optuna_does_not_mind_the_table(store, url):
    import optuna

    study = optuna.create_study(storage=url, study_name="s")

    study.tell(study.ask(), 1.0)
    assert optuna.load_study(storage=url, study_name="s").best_value == 1.0


def test_the_password_of_a_database_is_not_in_the_row(store, clock):
    new_lease(store, clock).acquire(clock.said.append)

    assert os.environ.get(STORAGE_PASSWORD, "no password") not in str(vars(store.read()))
    assert set(vars(store.read())) == {"holder", "beat", "machine", "process", "process_started", "host"}
