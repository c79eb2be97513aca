"""Opens a study: its rows in the database, its folder, and the tie between the two.

A study has a UUID, which stands in its database and in its folder (study.json). What lies in the folder of another
study, of whatever name, is never believed.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState

from storage.database import schema
from storage.protocol.files import OS_FILES, FileSystem
from storage.protocol.trial_dir import TrialDir
from study.config import StudyConfig
from study.plan import StudyPlan

log = logging.getLogger(__name__)

_MARKER = "study.json"


class StudyMismatchError(ValueError):
    """The study in the database is not the one that the config describes, or not the one whose files are here."""


def open_study(
    storage: BaseStorage,
    plan: StudyPlan,
    sampler: optuna.samplers.BaseSampler,
    attributes: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Load the study, or create it with its identity.

    Args:
        attributes: Of a study that is created.

    Raises:
        StudyMismatchError: The stored study searches something else.
    """
    name, identity = plan.name, plan.identity()
    if name not in optuna.get_all_study_names(storage):
        directions = [goal.direction for goal in plan.config.study.goals]
        optuna.create_study(storage=storage, study_name=name, directions=directions)
    study = optuna.load_study(storage=storage, study_name=name)
    if _is_blank(study):
        # New, or its driver died before this line.
        study.set_user_attr(schema.OBJECTIVE, identity["study"]["objective"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # What the dashboard would call "Objective 0".
            study.set_metric_names([goal.name for goal in plan.config.study.goals])
        for key, value in (attributes or {}).items():
            study.set_user_attr(key, value)
        study.set_user_attr(schema.FULL_CONFIG, plan.full_config())
        # Last: with it, the study is complete.
        study.set_user_attr(schema.STUDY_CONFIG, identity)
    stored = study.user_attrs.get(schema.STUDY_CONFIG)
    if stored is None:
        raise StudyMismatchError(
            f"the database has a study {name!r} that Switchyard did not make; choose another study.name."
        )
    if differences := _differences(stored, identity, _defaults()):
        raise StudyMismatchError(
            f"study {name!r} was started with another config: {'; '.join(differences)}. "
            "Trials of both would not compare: restore the values, or choose another study.name."
        )
    if study.user_attrs.get(schema.FULL_CONFIG) != (full := plan.full_config()):
        study.set_user_attr(schema.FULL_CONFIG, full)
    study.sampler = sampler
    return study


def record_opening(study: optuna.Study, opening: schema.Opening) -> None:
    """Store with what code and data the study is opened, if that has changed since it was opened before."""
    openings = schema.openings_with(study.user_attrs, opening)
    if openings is not None:
        study.set_user_attr(schema.STUDY_OPENINGS, openings)


def bind_folder(
    study: optuna.Study,
    folder: Path,
    database_dir: Path | None,
    adopt: bool,
    say: Callable[[str], None],
    files: FileSystem = OS_FILES,
    new_uuid: Callable[[], str] = lambda: uuid.uuid4().hex,
) -> str:
    """Tie the study in the database to the folder with its trials' files; gives the study's UUID.

    Args:
        folder: Of the study, absolute.
        database_dir: Of a database that is a file: it may be moved or copied together with the folder.
        adopt: Whether a person has said that the database and the folder belong together.
        say: Told what adopting means here.

    Raises:
        StudyMismatchError: The files here are another study's, or this study's are somewhere else.
    """
    in_database, in_folder = study.user_attrs.get(schema.STUDY_UUID), _read_marker(folder, files)
    _require_no_other_folder(study, folder, database_dir)
    if in_folder is None:
        _require_no_lost_files(study, folder, in_database, adopt, files)
        in_folder = in_database or new_uuid()
        files.make_dir(folder)
        files.write_atomically(
            folder / _MARKER, json.dumps({"study_uuid": in_folder, "study_name": study.study_name}).encode()
        )
    elif in_database != in_folder:
        if not adopt and (in_database is not None or _trial_numbers(folder, files)):
            raise StudyMismatchError(
                f"the folder {folder} belongs to study {in_folder}, and study {study.study_name!r} in this database is "
                f"{in_database or 'a new one'}: its trials would go on from files that are not theirs. Move the folder "
                "away to start anew, or give --adopt to have this database take over what the folder holds."
            )
        if adopt:
            say(f"adopted: this database's study {study.study_name!r} now goes by the folder's UUID, {in_folder}")
    if in_database != in_folder:
        study.set_user_attr(schema.STUDY_UUID, in_folder)
    _note_folder(study, folder, database_dir)
    _require_known_trials(study, folder, adopt, files)
    return in_folder


def retry_failed(storage: RDBStorage, study: optuna.Study) -> list[int]:
    """Open the failed trials again, with their numbers and parameters; gives their numbers.

    Optuna has no call for that, a trial that is told stays told, so its table is changed. Objects that have read the
    study before do not notice.
    """
    failed = [trial for trial in study.get_trials(deepcopy=False) if trial.state is TrialState.FAIL]
    for trial in failed:
        attempts = len(trial.user_attrs.get(schema.ATTEMPTS, []))
        trials = models.TrialModel.__table__
        reopen = trials.update().where(trials.c.trial_id == trial._trial_id)
        with storage.engine.begin() as connection:
            connection.execute(reopen.values(state=TrialState.RUNNING, datetime_complete=None))
        storage.set_trial_user_attr(trial._trial_id, schema.FORGIVEN_ATTEMPTS, attempts)
    return [trial.number for trial in failed]


def _read_marker(folder: Path, files: FileSystem) -> str | None:
    content = files.read(folder / _MARKER)
    if content is None:
        return None
    try:
        return str(json.loads(content)["study_uuid"])
    except (ValueError, KeyError, TypeError):
        raise StudyMismatchError(
            f"{folder / _MARKER} is damaged, so nobody knows whose trials lie beside it; move {folder} away, or "
            "restore that file."
        ) from None


def _require_no_other_folder(study: optuna.Study, folder: Path, database_dir: Path | None) -> None:
    """Another folder has no checkpoints of these trials."""
    stored = study.user_attrs.get(schema.STUDY_DIR)
    claimed = folder if stored is None else Path(os.path.normpath((database_dir or Path("/")) / stored))
    # One folder may have several names, such as those under which two login nodes mount it.
    if claimed.is_dir() and not (folder.is_dir() and claimed.samefile(folder)):
        raise StudyMismatchError(
            f"the files of study {study.study_name!r} are in {claimed}, not in {folder}, and its driver may be at work "
            f"there: go on with --set study.runs_dir={claimed.parent}, or choose another study.name."
        )


def _require_no_lost_files(
    study: optuna.Study, folder: Path, in_database: str | None, adopt: bool, files: FileSystem
) -> None:
    """Without its marker, a folder with trials may be anybody's; without files, begun trials start over."""
    if _trial_numbers(folder, files) and not adopt:
        raise StudyMismatchError(
            f"{folder} holds trials and no {_MARKER}, so nobody knows whose they are. Move it away to start anew, or "
            "give --adopt to have this database take over what the folder holds."
        )
    begun = [t.number for t in study.get_trials(deepcopy=False) if t.user_attrs.get(schema.SPEC_SHA256)]
    unfinished = [
        t.number for t in study.get_trials(deepcopy=False) if t.state is TrialState.RUNNING and t.number in begun
    ]
    if in_database is not None and unfinished and not adopt:
        raise StudyMismatchError(
            f"study {study.study_name!r} in this database has begun trial {', '.join(map(str, unfinished))}, whose "
            f"files are not in {folder}: mount or restore {study.user_attrs.get(schema.STUDY_DIR, folder)}, or give "
            "--adopt to start these trials over."
        )


def _note_folder(study: optuna.Study, folder: Path, database_dir: Path | None) -> None:
    stored = os.path.relpath(folder, database_dir) if database_dir else str(folder)
    if study.user_attrs.get(schema.STUDY_DIR) != stored:
        study.set_user_attr(schema.STUDY_DIR, stored)


def _require_known_trials(study: optuna.Study, folder: Path, adopt: bool, files: FileSystem) -> None:
    """A new trial never enters a folder that is there."""
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    unknown = [number for number in _trial_numbers(folder, files) if number not in trials]
    if unknown and not adopt:
        raise StudyMismatchError(
            f"{folder / 'trials'} holds trial {', '.join(map(str, unknown))}, of which this database knows nothing; "
            "was it restored from an older copy? Move those folders away, or give --adopt to take over those that hold "
            "what this study samples."
        )
    for number, trial in trials.items():
        known = trial.user_attrs.get(schema.SPEC_SHA256)
        directory = TrialDir(folder / "trials" / f"{number:04d}", files)
        if trial.state is TrialState.RUNNING and known is not None and directory.has_spec():
            found = directory.spec_sha256()
            if found != known:
                raise StudyMismatchError(
                    f"{directory.path} trains specification {found[:12]}, and trial {number} in the database is "
                    f"specification {known[:12]}; move that folder away to start the trial over."
                )


def _trial_numbers(folder: Path, files: FileSystem) -> list[int]:
    return sorted(int(name) for name in files.list_dir(folder / "trials") if name.isdecimal())


def _is_blank(study: optuna.Study) -> bool:
    """Whether nothing says that the study is somebody else's."""
    is_ours_by_its_direction = study.directions[0] is StudyDirection.MAXIMIZE
    return (
        is_ours_by_its_direction
        and schema.STUDY_CONFIG not in study.user_attrs
        and not study.get_trials(deepcopy=False)
    )


def _defaults() -> dict[str, Any]:
    """What older studies, that lack a key, were run with."""
    return StudyConfig.identity_defaults()


def _differences(stored: Any, current: Any, defaults: Any, where: str = "") -> list[str]:
    """Each value that differs between two nested dicts, in words. What an older version lacks had its default."""
    if isinstance(stored, dict) and isinstance(current, dict):
        known = defaults if isinstance(defaults, dict) else {}
        return [
            difference
            for key in sorted(stored.keys() | current.keys())
            for difference in _differences(
                stored.get(key, known.get(key)), current.get(key), known.get(key), f"{where}.{key}".lstrip(".")
            )
        ]
    return [] if stored == current else [f"{where} is {stored!r} in the database, {current!r} now"]
