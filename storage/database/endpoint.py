"""From a database URL to an Optuna storage, with no secret shown on the way."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from storage.database.lease import LeaseError
from storage.database.tables import make_tables
from storage.protocol.files import OS_FILES
from storage.protocol.variables import STORAGE_PASSWORD

_SECRET_OPTIONS = {"password", "passwd", "sslpassword"}
# A server that has become a replica in a failover; a transaction that lost against another one.
_TRANSIENT_SQLSTATES = {"25006", "40001", "40P01"}


class StorageError(ValueError):
    """A database URL is malformed, carries a secret where others can read it, or its database is out of reach."""


def parse_public_url(text: str, where: str) -> URL:
    """The URL that a person typed where others can read it: a command line or a config file.

    PostgreSQL's gets psycopg as its driver, so that the URL is good for other programs of this environment, too.

    Raises:
        StorageError: It is not a database URL, or has a password in it, or its database would not be kept. The message
            does not repeat the URL: what is wrong with it may be a secret that was not recognised as one.
    """
    try:
        url = make_url(text)
    # ValueError: its port is not a number.
    except (ArgumentError, ValueError):
        raise StorageError(
            f"{where}: this is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE."
        ) from None
    if url.password is not None or _SECRET_OPTIONS & url.query.keys():
        raise StorageError(
            f"{where}: this database URL has a password in it, which others on this machine can read; leave it out and "
            f"set {STORAGE_PASSWORD}, or keep it in ~/.pgpass."
        )
    if url.drivername.startswith("sqlite") and url.database in (None, "", ":memory:"):
        raise StorageError(f"{where}: {text} is a database in memory, which keeps no study; write sqlite:///FILE.")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def complete_url(url: URL) -> URL:
    """The URL with the password from the environment, if there is one."""
    password = _take_password()
    return url if password is None or url.drivername.startswith("sqlite") else url.set(password=password)


@cache
def _take_password() -> str | None:
    """Out of the environment, because the ranks and, on a cluster, the jobs inherit it and have no use for it."""
    found = [os.environ.pop(name, None) for name in (STORAGE_PASSWORD, "PGPASSWORD")]
    return next((password for password in found if password is not None), None)


def open_storage(url: URL) -> RDBStorage:
    """Connect, and make Optuna's tables where there are none.

    Raises:
        StorageError: The database cannot be reached, or refuses.
    """
    if url.drivername.startswith("sqlite") and url.database:
        try:
            OS_FILES.make_dir(Path(url.database).parent)
        except OSError as error:
            raise StorageError(f"the folder of {public_url(url)} cannot be made: {error.strerror}.") from error
    with as_storage_errors(url):
        complete = complete_url(url).render_as_string(hide_password=False)
        # pre_ping: a connection that the server closed meanwhile is replaced instead of used.
        engine = {"pool_pre_ping": True, "connect_args": _connect_arguments(url)}
        return make_tables(lambda: RDBStorage(complete, engine_kwargs=engine))


def check_connection(url: URL) -> None:
    """See that a server answers and lets this user in. Makes and changes nothing.

    Raises:
        StorageError: It does not.
    """
    if url.drivername.startswith("sqlite"):
        return
    with as_storage_errors(url):
        engine = sqlalchemy.create_engine(complete_url(url), connect_args=_connect_arguments(url))
        try:
            engine.connect().close()
        finally:
            engine.dispose()


@contextmanager
def as_storage_errors(url: URL) -> Iterator[None]:
    """What a database says in the block, in words for a person.

    Raises:
        StorageError: With the database's own words.
        LeaseError: From the block, as it is.
    """
    try:
        yield
    except LeaseError:
        # The database works; it is another driver's turn.
        raise
    except ImportError as error:
        raise StorageError(f"{public_url(url)} needs a driver that is not installed: {error}.") from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise StorageError(
            f"the database {public_url(url)} cannot be used: {describe_database_error(error)}. Check that it runs and "
            f"that this user may write to it; a password comes from {STORAGE_PASSWORD} or ~/.pgpass."
        ) from error


def open_existing_storage(url: URL) -> RDBStorage:
    """A database to read. Makes none.

    Raises:
        StorageError: There is no such database.
    """
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_file():
        raise StorageError(f"there is no database {public_url(url)}; check the study's name and where its database is.")
    return open_storage(url)


def open_existing_study(url: URL, name: str) -> optuna.Study:
    """A study to read. Makes nothing.

    Raises:
        StorageError: There is no such database or study.
    """
    storage = open_existing_storage(url)
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise StorageError(f"there is no study {name!r} in {public_url(url)}; it has {', '.join(names) or 'none'}.")
    return optuna.load_study(storage=storage, study_name=name)


def folder_of(url: URL) -> Path | None:
    """Where a database that is a file lies; None of a server's."""
    return Path(url.database or "").resolve().parent if url.drivername.startswith("sqlite") else None


def public_url(url: URL) -> str:
    """The URL as others may see it; also what optuna-dashboard is started with."""
    # URL.set(password=None) would leave it as it is, to be shown as three asterisks.
    return url._replace(password=None).render_as_string()


def is_transient(error: BaseException) -> bool:
    """Whether waiting may cure a database error: a server that restarts or fails over, another reader's lock."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlalchemy.exc.DBAPIError):
        cause = cause.__cause__
    if cause is None:
        return isinstance(error, SQLAlchemyError | StorageInternalError)
    if isinstance(cause.orig, sqlite3.Error):
        # There is no server to restart; a full disk or a damaged file is for a person to put right.
        code = getattr(cause.orig, "sqlite_errorcode", sqlite3.SQLITE_BUSY)
        return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    if getattr(cause.orig, "sqlstate", None) in _TRANSIENT_SQLSTATES:
        return True
    return isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)


def describe_database_error(error: BaseException) -> str:
    """The database's own words on one line, without the statement and its values."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        error = error.orig
    elif isinstance(error.__cause__, sqlalchemy.exc.DBAPIError):
        return describe_database_error(error.__cause__)
    return re.sub(r"\s+", " ", str(error)).strip().rstrip(".") or type(error).__name__


def _connect_arguments(url: URL) -> dict[str, object]:
    if url.drivername.startswith("sqlite"):
        # A reader of the file, like the dashboard, may hold it for a moment.
        return {"timeout": 30}
    if url.drivername.startswith("postgresql"):
        # A server whose machine is gone is noticed by the kernel, whatever the statement is.
        return {
            "connect_timeout": 10,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
        }
    return {}


def insecurity(url: URL) -> str | None:
    """What others on the way to the database could do, in words; None if nothing."""
    hosts = str(url.query.get("host", url.host or ""))
    is_local = not hosts or hosts.startswith("/") or hosts in ("localhost", "127.0.0.1", "::1")
    if not url.drivername.startswith("postgresql") or is_local or url.query.get("sslmode") == "verify-full":
        return None
    return (
        f"the connection to {hosts} does not check who answers: others on the network may read the password. Add "
        "?sslmode=verify-full to the URL."
    )
