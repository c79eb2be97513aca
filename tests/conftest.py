"""What tests of several folders share."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres_server import PostgresServer, find_programs, run_postgres

# How long an example takes says something of the machine's other work only.
settings.register_profile("switchyard", deadline=None)
settings.load_profile("switchyard")

# Whoever starts the tests under nohup or in the background of a script has programs ignore these, and a driver that
# ignores them pauses nothing.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# Each has clusters of several daemons and kills some of them, so they run one after the other.
_SLURM = (
    "tests/cluster/test_sandbox",
    "tests/cluster/test_slurm",
    "tests/contracts/test_batch_systems",
    "tests/contracts/test_pools",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep the tests of a file in one worker: they share what its fixtures have trained."""
    # Imported here: pytest itself does not need it.
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "slurm" if file.startswith(_SLURM) else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server that asks for a password."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    # Not pytest's folder: nobody but this user may enter that, and a socket's path must be short.
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-postgres-") as folder,
        run_postgres(programs, Path(folder)) as server,
    ):
        yield server
