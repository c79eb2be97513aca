"""Where a study is that was run before: its database and its folder."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
from sqlalchemy import URL

from storage.database import schema
from storage.database.endpoint import StorageError, folder_of, open_existing_storage, parse_public_url
from storage.protocol.variables import STORAGE_URL


def url_of_study(name: str, storage: str | None, runs_dir: Path) -> URL:
    """The database that was named, by the caller or in the environment, or else the study's own file.

    Raises:
        StorageError: What was named is no URL for others to see.
    """
    if storage:
        return parse_public_url(storage, "--storage")
    if os.environ.get(STORAGE_URL):
        return parse_public_url(os.environ[STORAGE_URL], STORAGE_URL)
    return parse_public_url(f"sqlite:///{runs_dir / name / 'study.db'}", "--runs-dir")


def place_of(source: str, option: str, runs_dir: Path) -> tuple[str, URL]:
    """Name and database of a study that a person names as STUDY or STUDY@URL.

    Args:
        option: With which it was named, for errors.

    Raises:
        StorageError: What should say where it is does not, or has a password in it. The message does not repeat it.
    """
    name, _, place = source.partition("@")
    return name, parse_public_url(place, f"{option} {name}") if place else url_of_study(name, None, runs_dir)


def find_study(url: URL, name: str) -> optuna.Study | None:
    """A study to read; None where there is none of this name, or no database. Makes nothing.

    Raises:
        StorageError: The database cannot be used.
    """
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_file():
        return None
    storage = open_existing_storage(url)
    if name not in optuna.get_all_study_names(storage):
        return None
    return optuna.load_study(storage=storage, study_name=name)


def studies_beside(study: optuna.Study, url: URL) -> list[optuna.Study]:
    """The others in its database and, where that is its own file, in those of the folders beside its own."""
    own = folder_of(url)
    files = [] if own is None else sorted(own.parent.glob("*/study.db"))
    others = [parse_public_url(f"sqlite:///{path}", str(path)) for path in files if path.parent != own]
    found = []
    for place in (url, *others):
        try:
            storage = open_existing_storage(place)
        except StorageError:
            # Somebody else's file, or a damaged one: no part of this study.
            continue
        names = optuna.get_all_study_names(storage)
        found += [optuna.load_study(storage=storage, study_name=name) for name in names]
    return [other for other in found if other.study_name != study.study_name]


def folder_of_study(study: optuna.Study, url: URL) -> Path | None:
    """The study's folder, where its database says; None if that says nothing, or it is not there."""
    stored = study.user_attrs.get(schema.STUDY_DIR)
    folder = None if stored is None else (folder_of(url) or Path("/")) / stored
    return folder.resolve() if folder is not None and folder.is_dir() else None
