"""Which trials of a study are exported, and where their files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import URL

from storage.database import schema
from storage.database.endpoint import folder_of, open_existing_study, parse_public_url
from storage.protocol.codec import from_plain
from storage.protocol.exports import EvaluatedScores, ExportRequest, TrialToExport
from storage.protocol.import_path import ImportPath
from storage.protocol.records import KINDS, ClassScores
from storage.protocol.trial_dir import TrialDir, TrialDirError
from study.evaluation import key_of, link_of, scores_of
from study.finding import studies_beside
from study.finished_trials import completed_trials, eligible_trials, record_of
from study.own_code import CodeFolders


class ExportRequestError(ValueError):
    """The study has no such trial to export, or its files are not there."""


def make_request(
    name: str, storage: str | None, runs_dir: Path, number: int | None, ensemble: int, out_dir: Path
) -> ExportRequest:
    """Find the trials in the database, and their folders.

    Args:
        number: Of the trial; None: the best ones.
        ensemble: How many of the best.

    Raises:
        StorageError: There is no such study.
        ExportRequestError: There are no such trials, or no such folder.
    """
    url = parse_public_url(storage or f"sqlite:///{runs_dir / name / 'study.db'}", "--storage")
    return request_for(open_existing_study(url, name), url, runs_dir, number, ensemble, out_dir)


def request_for(
    study: optuna.Study, url: URL, runs_dir: Path, number: int | None, ensemble: int, out_dir: Path
) -> ExportRequest:
    """The same of a study that is open, in the database at `url`.

    Raises:
        ExportRequestError: There are no such trials, or no such folder.
    """
    if out_dir.exists():
        raise ExportRequestError(f"--out: {out_dir} is there already; give another folder, or remove it first.")
    completed = completed_trials(study.get_trials(deepcopy=False))
    chosen = _choose(study, completed, number, ensemble)
    folder = _folder_of(study, url, runs_dir)
    return ExportRequest(
        study_name=study.study_name,
        study_uuid=study.user_attrs.get(schema.STUDY_UUID, ""),
        objective=study.user_attrs.get(schema.OBJECTIVE, "f1_micro"),
        completed_trials=len(completed),
        trials=tuple(_describe(trial, folder) for trial in chosen),
        out_dir=str(out_dir.absolute()),
        evaluation=_evaluation_of(chosen[0], study, url) if len(chosen) == 1 else None,
    )


def _evaluation_of(trial: FrozenTrial, study: optuna.Study, url: URL) -> EvaluatedScores | None:
    """What the trial's configuration scored with several seeds; of several evaluations, the one with most of them.

    Evaluations are looked for where `studies_beside` looks. A study that is one itself has evaluated its own trials.
    """
    found = [
        EvaluatedScores(other.study_name, each.count, each.others, each.validation, each.test)
        for other in (study, *studies_beside(study, url))
        if (link := link_of(other)) is not None and (other is study or link.is_of(study))
        for each in scores_of(other)
        if key_of(each.parameters) == key_of(trial.params) and each.completed
    ]
    return max(found, key=lambda evaluated: evaluated.seeds, default=None)


def _choose(
    study: optuna.Study, completed: Sequence[FrozenTrial], number: int | None, ensemble: int
) -> Sequence[FrozenTrial]:
    if not completed:
        raise ExportRequestError(
            f"study {study.study_name!r} has no completed trial, so there are no final weights; let "
            "study/run.py finish one first."
        )
    if number is not None:
        chosen = [trial for trial in completed if trial.number == number]
        if not chosen:
            raise ExportRequestError(_why_not(study, completed, number))
        return chosen
    if not 1 <= ensemble <= len(completed):
        raise ExportRequestError(
            f"--ensemble {ensemble}: study {study.study_name!r} has {len(completed)} completed trial(s); use a number "
            f"from 1 to {len(completed)}."
        )
    eligible = eligible_trials(completed)
    if ensemble > len(eligible):
        raise ExportRequestError(
            f"study {study.study_name!r} has {len(eligible)} completed trial(s) within its constraint; use --ensemble "
            "with no more, or --trial N for one that breaks it."
        )
    return sorted(eligible, key=lambda trial: -trial.values[0])[:ensemble]


def _why_not(study: optuna.Study, completed: Sequence[FrozenTrial], number: int) -> str:
    trial = next((t for t in study.get_trials(deepcopy=False) if t.number == number), None)
    numbers = ", ".join(str(each.number) for each in completed)
    if trial is None:
        return f"--trial {number}: study {study.study_name!r} has no such trial; completed are {numbers}."
    record = record_of(trial)
    outcome = trial.state.name.lower() if record is None else record.outcome
    return f"--trial {number} is {outcome}, so it has no final weights; completed are {numbers}."


def _folder_of(study: optuna.Study, url: URL, runs_dir: Path) -> Path:
    """The study's folder: where the database says, or under --runs-dir should it have been moved.

    Raises:
        ExportRequestError: It is in neither place.
    """
    stored = study.user_attrs.get(schema.STUDY_DIR)
    places = [runs_dir / study.study_name]
    if stored is not None:
        places.insert(0, (folder_of(url) or Path("/")) / stored)
    for place in places:
        # A SQLite file that was moved alone names the folder in which it lies now.
        if (place / "trials").is_dir():
            return place.resolve()
    raise ExportRequestError(
        f"the files of study {study.study_name!r} are not in {' or '.join(map(str, places))}; name the folder that "
        "holds the study's with --runs-dir."
    )


def _describe(trial: FrozenTrial, folder: Path) -> TrialToExport:
    directory = TrialDir(folder / "trials" / f"{trial.number:04d}")
    record, sha256 = record_of(trial), trial.user_attrs.get(schema.SPEC_SHA256)
    epochs = 0 if record is None else len(record.curves.get("val_loss", ()))
    if record is None or record.f1_micro is None or record.f1_macro is None or not epochs or sha256 is None:
        raise ExportRequestError(
            f"the database holds no scores or no specification of trial {trial.number}; export another one with "
            "--trial N."
        )
    # Seen here, before TensorFlow has been started for it.
    if directory.path.is_dir() and not directory.checkpoints():
        raise ExportRequestError(
            f"{directory.path} holds no checkpoint, so its weights are lost; restore attempt-*/checkpoint.npz, or "
            "export another trial with --trial N."
        )
    if not directory.has_spec():
        raise ExportRequestError(
            f"trial {trial.number} has no files in {directory.path}, so its weights are lost; restore that folder, or "
            "export another trial with --trial N."
        )
    return TrialToExport(
        trial_dir=str(directory.path),
        number=trial.number,
        spec_sha256=sha256,
        score=trial.values[0],
        epochs=epochs,
        # Older versions stored neither: the last epoch counted, and there were two scores.
        counted_epoch=epochs - 1 if record.counted_epoch is None else record.counted_epoch,
        scores={"f1_micro": record.f1_micro, "f1_macro": record.f1_macro, **record.scores},
        classes=from_plain(ClassScores, record.classes, ignore_unknown=True) if record.classes else None,
        parameters=trial.params,
    )


def code_folders(request: ExportRequest) -> tuple[Path, ...]:
    """Where the packages lie with which the trials were built; none if all of that is bundled."""
    try:
        specs = [TrialDir(Path(trial.trial_dir)).read_spec() for trial in request.trials]
    except TrialDirError:
        # The process that builds them finds the same, and says it.
        return ()
    names = [getattr(spec, kind).name for spec in specs for kind in KINDS]
    return CodeFolders.here().paths if any(map(ImportPath.parse, names)) else ()
