"""Tables that two drivers make at the same moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from storage.database.tables import make_tables
from tests.architecture.sources import REPOSITORY

OPEN = """
import sys
from storage.database.endpoint import open_storage, parse_public_url
from storage.database.lease import DatabaseLeaseStore
url = parse_public_url(sys.argv[1], "")
print("ready", flush=True)
sys.stdin.readline()
DatabaseLeaseStore(open_storage(url).engine, "small").read()
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_drivers_that_open_a_new_database_at_the_same_moment_all_get_it(database, request, tmp_path: Path):
    url, environment = f"sqlite:///{tmp_path}/study.db", {}
    if database == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url, environment = postgres.create_database("at_once"), {"PGPASSWORD": postgres.password}
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url],
            cwd=REPOSITORY,
            env={"PYTHONPATH": str(REPOSITORY), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for driver in drivers:
        assert driver.stdout.readline() == "ready\n"

    # All are told before the first one's end is waited for.
    for driver in drivers:
        driver.stdin.write("go\n")
        driver.stdin.flush()
    ends = [(driver.communicate(timeout=120)[1], driver.returncode) for driver in drivers]

    assert [code for _, code in ends] == [0] * 4, ends


def test_an_error_of_another_kind_is_told_at_once(tmp_path):
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/nowhere/study.db")
    calls = []

    def connect() -> None:
        calls.append(1)
        engine.connect()

    with pytest.raises(OperationalError, match="unable to open"):
        make_tables(connect)
    assert len(calls) == 1
