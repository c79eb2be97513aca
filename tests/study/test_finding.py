"""Studies are found in their database and in the folders beside their own."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from storage.database import schema
from storage.database.endpoint import StorageError, open_storage, parse_public_url
from storage.protocol.variables import STORAGE_URL
from study.finding import find_study, folder_of_study, studies_beside, url_of_study


def url_in(folder: Path):
    return parse_public_url(f"sqlite:///{folder}/study.db", "")


def new_study(folder: Path, name: str) -> optuna.Study:
    return optuna.create_study(storage=open_storage(url_in(folder)), study_name=name)


def test_what_is_named_comes_before_the_environment_and_that_before_the_studys_own_file(monkeypatch):
    assert url_of_study("a", None, Path("runs")).database == "runs/a/study.db"
    monkeypatch.setenv(STORAGE_URL, "sqlite:///everybodys.db")
    assert url_of_study("a", None, Path("runs")).database == "everybodys.db"
    assert url_of_study("a", "sqlite:///mine.db", Path("runs")).database == "mine.db"


def test_a_wrong_url_is_said_to_come_from_where_it_does(monkeypatch):
    monkeypatch.setenv(STORAGE_URL, "everybodys.db")
    with pytest.raises(StorageError, match=STORAGE_URL):
        url_of_study("a", None, Path("runs"))


def test_a_study_that_is_not_there_is_looked_for_without_making_anything(tmp_path):
    assert find_study(url_in(tmp_path), "a") is None
    assert list(tmp_path.iterdir()) == []
    new_study(tmp_path, "a")
    assert find_study(url_in(tmp_path), "b") is None
    assert find_study(url_in(tmp_path), "a").study_name == "a"


def test_others_are_found_in_the_database_and_beside_it_and_a_damaged_file_is_passed_over(tmp_path):
    study = new_study(tmp_path / "a", "a")
    new_study(tmp_path / "a", "with a")
    new_study(tmp_path / "b", "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "study.db").write_text("no database")

    found = studies_beside(study, url_in(tmp_path / "a"))

    assert sorted(other.study_name for other in found) == ["b", "with a"]


def test_a_folder_that_was_moved_with_its_database_is_found_and_a_lost_one_is_not(tmp_path):
    study = new_study(tmp_path / "a", "a")
    assert folder_of_study(study, url_in(tmp_path / "a")) is None
    study.set_user_attr(schema.STUDY_DIR, ".")
    assert folder_of_study(study, url_in(tmp_path / "a")) == tmp_path / "a"
    study.set_user_attr(schema.STUDY_DIR, "../lost")
    assert folder_of_study(study, url_in(tmp_path / "a")) is None
