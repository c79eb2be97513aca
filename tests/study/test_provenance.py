"""What is noted when a study is opened."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import UTC, datetime

import optuna

from storage.database import schema
from storage.database.schema import Opening
from study.opening import record_opening
from study.provenance import describe_opening

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def opening(commit: str = "a", at: str = "2026-01-01T00:00:00+00:00") -> Opening:
    return Opening(at, commit, False, {"python": "3.11"}, {})


def git(folder, *arguments: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    return subprocess.run(
        ("git", "-C", folder, *identity, *arguments), check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_of_a_checkout_and_whether_it_is_modified(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")

    clean = describe_opening({}, NOW, tmp_path)
    (tmp_path / "code.py").write_text("2")
    modified = describe_opening({}, NOW, tmp_path)

    assert clean.commit == modified.commit == git(tmp_path, "rev-parse", "HEAD")
    assert (clean.is_modified, modified.is_modified) == (False, True)
    assert clean.first_at == "2026-01-02T03:04:05+00:00"


def test_what_is_no_checkout_has_no_commit_even_inside_another_one(tmp_path):
    git(tmp_path, "init", "--quiet")
    inner = tmp_path / "installed"
    inner.mkdir()

    assert describe_opening({}, NOW, inner).commit is None


def test_versions_of_what_the_driver_runs():
    assert describe_opening({}, NOW).versions["optuna"] == optuna.__version__


def test_the_lists_of_a_data_set_are_told_by_their_checksums_and_its_images_are_not_read(tmp_path):
    (tmp_path / "labels.csv").write_text("image,split\n")
    (tmp_path / "photo.png").write_bytes(b"x")
    (tmp_path / "folder.csv").mkdir()

    found = describe_opening({"path": str(tmp_path)}, NOW).data_sha256

    assert found == {"labels.csv": hashlib.sha256(b"image,split\n").hexdigest()}


def test_a_data_set_without_a_path_or_a_folder_has_no_checksums(tmp_path):
    assert describe_opening({}, NOW).data_sha256 == {}
    assert describe_opening({"path": str(tmp_path / "absent")}, NOW).data_sha256 == {}


def test_an_opening_is_stored_once_and_again_when_the_code_has_changed():
    study = optuna.create_study(direction="maximize")

    for each in (opening(), opening(at="later"), opening("b")):
        record_opening(study, each)

    assert schema.read_openings(study.user_attrs) == [opening(), opening("b")]


def test_damaged_rows_do_not_keep_a_study_from_opening():
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(schema.STUDY_OPENINGS, [{"commit": 3}])

    record_opening(study, opening())

    assert schema.read_openings(study.user_attrs) == [opening()]
