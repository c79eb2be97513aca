"""One driver per study: two would ask for the same trials and write over each other.

The right to drive a study is a row in its database, which its holder changes every few seconds. Whoever sees the row
unchanged for a minute, by a clock of his own, may take it: clocks are never compared, and no file system's locks are
trusted. A holder that was stopped for so long finds that it has lost the right before it writes anything.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil
import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from storage.database.tables import make_tables
from storage.protocol.clock import Clock

log = logging.getLogger(__name__)

LEASE_S = 60.0
"""Without a sign of life, after which a lease is over."""
RENEW_EVERY_S = 10.0
_LOOK_EVERY_S = 1.0

_TABLE = Table(
    "switchyard_leases",
    MetaData(),
    Column("study_name", String(512), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("beat", Integer, nullable=False),
    Column("machine", String(256), nullable=False),
    Column("process", Integer, nullable=False),
    Column("process_started", String(64), nullable=False),
    Column("host", String(256), nullable=False),
)


class LeaseError(RuntimeError):
    """Another driver runs this study."""


class LeaseLostError(LeaseError):
    """This driver was silent for so long that another one has taken the study over."""


@dataclass(frozen=True)
class LeaseRow:
    holder: str
    """Unique for each driver."""
    beat: int
    machine: str
    """Of the holder: its running system, and what it sees of its processes."""
    process: int
    process_started: str
    """Tells a process from a later one of the same number."""
    host: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class LeaseStore(Protocol):
    """Where the row of a study is kept."""

    def read(self) -> LeaseRow | None: ...

    def swap(self, old: LeaseRow | None, new: LeaseRow | None) -> bool:
        """Put `new` in the place of `old`, if that is what is there; whether it was."""
        ...


class DatabaseLeaseStore:
    """A row in a table of its own, beside Optuna's."""

    def __init__(self, engine: Engine, study_name: str) -> None:
        self._engine, self._study_name = engine, study_name
        make_tables(lambda: _TABLE.metadata.create_all(engine))

    def read(self) -> LeaseRow | None:
        query = sqlalchemy.select(_TABLE).where(_TABLE.c.study_name == self._study_name)
        with self._engine.connect() as connection:
            found = connection.execute(query).mappings().first()
        if found is None:
            return None
        return LeaseRow(**{name: value for name, value in found.items() if name != "study_name"})

    def swap(self, old: LeaseRow | None, new: LeaseRow | None) -> bool:
        with self._engine.begin() as connection:
            if old is None:
                if new is None:
                    return True
                with suppress(IntegrityError):
                    connection.execute(_TABLE.insert().values(study_name=self._study_name, **vars(new)))
                    return True
                return False
            is_old = sqlalchemy.and_(
                _TABLE.c.study_name == self._study_name, _TABLE.c.holder == old.holder, _TABLE.c.beat == old.beat
            )
            change = _TABLE.delete() if new is None else _TABLE.update().values(**vars(new))
            return connection.execute(change.where(is_old)).rowcount == 1


def this_driver() -> LeaseRow:
    """A row of this process."""
    process = psutil.Process()
    return LeaseRow(
        holder=uuid.uuid4().hex,
        beat=0,
        machine=_machine(),
        process=process.pid,
        process_started=str(process.create_time()),
        host=socket.gethostname(),
    )


class StudyLease:
    """The right to drive one study.

    Args:
        me: What this driver's row says; its beat changes.
        pause: Waits for so many seconds, or less where somebody wants an end.
        is_alive: Whether a row's process, on this machine, still runs.
    """

    def __init__(
        self,
        store: LeaseStore,
        clock: Clock,
        me: LeaseRow,
        pause: Callable[[float], None],
        is_alive: Callable[[LeaseRow], bool] | None = None,
    ) -> None:
        self._store, self._clock, self._row, self._pause = store, clock, me, pause
        self._is_alive = is_alive or _is_alive
        self._renewed_s = float("-inf")
        self._lost: LeaseLostError | None = None
        self._lock = threading.Lock()

    def acquire(self, say: Callable[[str], None]) -> None:
        """Take the study, waiting for a silent holder's lease to end if there is one.

        Args:
            say: Told if there is something to wait for.

        Raises:
            LeaseError: Another driver holds it and lives; the message says which.
        """
        seen = self._store.read()
        unchanged_since_s = self._clock.monotonic()
        if seen is not None and seen.machine == self._row.machine:
            if self._is_alive(seen):
                raise LeaseError(_refusal(seen))
        elif seen is not None:
            say(f"{seen} drove this study and has not given it back; waiting up to {LEASE_S:.0f} s for a sign of life")
            while self._clock.monotonic() - unchanged_since_s < LEASE_S:
                self._pause(_LOOK_EVERY_S)
                if (now := self._store.read()) != seen:
                    if now is not None:
                        raise LeaseError(_refusal(now))
                    seen = None
                    break
        asked_s = self._clock.monotonic()
        if not self._store.swap(seen, self._row):
            raise LeaseError(_refusal(self._store.read() or self._row))
        self._renewed_s = asked_s

    def renew(self) -> None:
        """Give a sign of life. Called every few seconds, from any thread.

        Raises:
            LeaseLostError: Another driver has taken the study over.
        """
        with self._lock:
            asked_s, beaten = self._clock.monotonic(), replace(self._row, beat=self._row.beat + 1)
            if not self._store.swap(self._row, beaten):
                now = self._store.read()
                # A commit whose answer was lost.
                if now != beaten:
                    self._lost = LeaseLostError(f"the study has been taken over by {now or 'nobody'}; this driver ends")
                    raise self._lost
            self._row, self._renewed_s = beaten, asked_s

    def require(self) -> None:
        """Make sure that the study is still this driver's, before something is written.

        Raises:
            LeaseLostError: It is not.
        """
        if self._lost is not None:
            raise self._lost
        if self._clock.monotonic() - self._renewed_s > LEASE_S / 2:
            self.renew()

    def release(self) -> None:
        """Let the next driver begin at once."""
        with self._lock:
            if self._lost is None:
                self._store.swap(self._row, None)


@contextmanager
def keep_renewing(lease: StudyLease) -> Iterator[None]:
    """Give signs of life in the background, for the length of the block."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_EVERY_S):
            try:
                lease.renew()
            except LeaseLostError:
                return  # `require` tells.
            except (SQLAlchemyError, OSError) as error:
                # A database that is away takes no other driver's word either.
                log.warning("the lease could not be renewed: %s", error)

    threading.Thread(target=renew, name="lease", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _refusal(row: LeaseRow) -> str:
    return f"this study is being run by {row}; wait for it, or stop it (a signal pauses its trials), then try again."


def _machine() -> str:
    """Names a running system and a space of process numbers, as containers have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116  a link to no file
    except OSError:
        return f"{socket.gethostname()}:{uuid.getnode()}"


def _is_alive(row: LeaseRow) -> bool:
    try:
        process = psutil.Process(row.process)
        return str(process.create_time()) == row.process_started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
