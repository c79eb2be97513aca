"""From a URL to a database, with no secret shown on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from sqlalchemy.engine import make_url

from storage.database.endpoint import (
    STORAGE_PASSWORD,
    StorageError,
    open_existing_study,
    open_storage,
    parse_public_url,
    public_url,
)
from tests.architecture.sources import REPOSITORY
from tests.postgres_server import PostgresServer

SECRET = "hunter2"


def refusal(text: str) -> str:
    with pytest.raises(StorageError) as refused:
        parse_public_url(text, "--storage")
    return str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@db.example/studies",
        f"postgresql+psycopg://ada:{SECRET}@/studies?host=/run/postgresql",
        f"postgresql://ada@db.example/studies?password={SECRET}",
        f"mysql://ada@db.example/studies?passwd={SECRET}",
        f"postgresql://ada:x@{SECRET}@db.example/studies",
        f"postgresql://ada:{SECRET}/x@db.example/studies",
    ],
)
def test_a_password_in_a_url_is_refused_with_the_places_where_it_may_be_and_not_shown(url):
    message = refusal(url)

    assert "--storage" in message
    assert STORAGE_PASSWORD in message
    assert "~/.pgpass" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "url",
    [
        "study.db",
        "",
        f"postgresql//ada:{SECRET}@db.example/studies",
        # The port is not a number.
        f"postgresql://db.example:{SECRET}/studies",
    ],
)
def test_what_is_no_url_is_refused_with_two_that_are_and_not_repeated(url):
    message = refusal(url)

    assert "sqlite:///FILE" in message
    assert "postgresql://USER@HOST/DATABASE" in message
    assert SECRET not in message


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_that_keeps_nothing_is_refused(url):
    assert "in memory" in refusal(url)


def test_the_shown_url_has_no_password_and_opens_with_this_environments_driver():
    shown = public_url(parse_public_url("postgresql://ada@db.example/studies", "--storage"))

    assert shown == "postgresql+psycopg://ada@db.example/studies"
    with_password = make_url(f"postgresql://ada:{SECRET}@db.example/studies")
    assert public_url(with_password) == "postgresql://ada@db.example/studies"


def test_sqlite_is_made_with_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "study.db"

    optuna.create_study(storage=open_storage(parse_public_url(f"sqlite:///{path}", "")), study_name="s")

    assert optuna.load_study(storage=f"sqlite:///{path}", study_name="s")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "study.db"
    path.write_text("a diary, certainly not a database")

    with pytest.raises(StorageError, match="file is not a database"):
        open_storage(parse_public_url(f"sqlite:///{path}", ""))

    assert path.read_text() == "a diary, certainly not a database"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot be made"):
        open_storage(parse_public_url(f"sqlite:///{tmp_path / 'file' / 'study.db'}", ""))


@pytest.mark.parametrize("url", ["mysql://ada@db.example/studies", "oracle9i://ada@db.example/studies"])
def test_a_database_without_a_driver_here_is_refused(url):
    with pytest.raises(StorageError, match=r"mysql|oracle9i"):
        open_storage(parse_public_url(url, ""))


def test_reading_a_study_makes_no_database(tmp_path):
    path = tmp_path / "study.db"

    with pytest.raises(StorageError, match="there is no database"):
        open_existing_study(parse_public_url(f"sqlite:///{path}", ""), "s")

    assert not path.exists()


def test_a_study_that_is_not_there_is_refused_and_those_that_are_there_are_listed(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(storage=url, study_name="this one")

    with pytest.raises(StorageError, match="it has this one"):
        open_existing_study(parse_public_url(url, ""), "that one")


# What follows needs a process each: the password is read once, and libpq looks for ~/.pgpass when it starts.

CREATE_STUDY = """
import os, sys
import optuna
from storage.database.endpoint import open_storage, parse_public_url, StorageError
try:
    storage = open_storage(parse_public_url(sys.argv[1], "--storage"))
    print(optuna.create_study(storage=storage, study_name=sys.argv[2]).study_name)
    print("environment:", dict(os.environ))
except StorageError as error:
    sys.exit(str(error))
"""


def create_study(url: str, name: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != STORAGE_PASSWORD}
    return subprocess.run(
        [sys.executable, "-c", CREATE_STUDY, url, name],
        cwd=REPOSITORY,
        env={**inherited, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def database_url(postgres: PostgresServer) -> str:
    return postgres.create_database("endpoint")


@pytest.mark.parametrize("variable", [STORAGE_PASSWORD, "PGPASSWORD"])
def test_the_password_may_come_from_the_environment_and_then_leaves_it(postgres, database_url, tmp_path, variable):
    done = create_study(database_url, variable, tmp_path, **{variable: postgres.password})

    assert done.stdout.startswith(variable), done.stderr
    assert postgres.password not in done.stdout


def test_the_password_may_come_from_pgpass(postgres, database_url, tmp_path):
    pgpass = tmp_path / ".pgpass"
    pgpass.write_text(f"127.0.0.1:{postgres.port}:*:{postgres.user}:{postgres.password}\n")
    pgpass.chmod(0o600)

    done = create_study(database_url, "pgpass", tmp_path)

    assert done.stdout.startswith("pgpass"), done.stderr


def test_a_wrong_password_is_refused_in_the_databases_words_and_not_shown(database_url, tmp_path):
    done = create_study(database_url, "wrong", tmp_path, **{STORAGE_PASSWORD: SECRET})

    assert done.returncode
    assert 'password authentication failed for user "ada"' in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_without_a_password_the_error_says_where_one_may_come_from(database_url, tmp_path):
    done = create_study(database_url, "none", tmp_path)

    assert done.returncode
    assert "no password supplied" in done.stderr
    assert STORAGE_PASSWORD in done.stderr
    assert "~/.pgpass" in done.stderr


def test_a_server_that_does_not_answer_is_named(tmp_path):
    done = create_study("postgresql://ada@127.0.0.1:1/studies", "nobody", tmp_path, **{STORAGE_PASSWORD: SECRET})

    assert done.returncode
    assert "postgresql+psycopg://ada@127.0.0.1:1/studies cannot be used" in done.stderr
    assert "Connection refused" in done.stderr
    assert SECRET not in done.stderr
