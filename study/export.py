"""Write a trained trial as a model to use: a Keras file, a SavedModel, export.json and a model card."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402

import optuna  # noqa: E402
from optuna.trial import FrozenTrial  # noqa: E402
from rich.console import Console  # noqa: E402
from sqlalchemy import URL  # noqa: E402

from storage.database import schema  # noqa: E402
from storage.database.endpoint import StorageError, folder_of, open_existing_study, parse_public_url  # noqa: E402
from storage.protocol.codec import from_plain  # noqa: E402
from storage.protocol.exports import ExportRequest, TrialToExport  # noqa: E402
from storage.protocol.records import ClassScores  # noqa: E402
from storage.protocol.trial_dir import TrialDir  # noqa: E402
from study.finished_trials import completed_trials, record_of  # noqa: E402
from study.model_process import run_trainers_program  # noqa: E402

_EXIT_BAD_INPUT = 2


class ExportRequestError(ValueError):
    """The study has no such trial to export, or its files are not there."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    optuna.logging.disable_default_handler()
    try:
        request = make_request(
            arguments.name, arguments.storage, arguments.runs_dir, arguments.trial, arguments.ensemble, arguments.out
        )
    except (StorageError, ExportRequestError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return _EXIT_BAD_INPUT
    exit_code = run_trainers_program("trainers.export", request)
    if exit_code == 0:
        numbers = ", ".join(f"{trial.number} ({request.objective} {trial.score:.4f})" for trial in request.trials)
        Console().print(f"exported trial {numbers} to {arguments.out}", highlight=False, markup=False, soft_wrap=True)
    return exit_code


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
    if out_dir.exists():
        raise ExportRequestError(f"--out: {out_dir} is there already; give another folder, or remove it first.")
    url = parse_public_url(storage or f"sqlite:///{runs_dir / name / 'study.db'}", "--storage")
    study = open_existing_study(url, name)
    completed = completed_trials(study.get_trials(deepcopy=False))
    chosen = _choose(study, completed, number, ensemble)
    folder = _folder_of(study, url, runs_dir)
    return ExportRequest(
        study_name=name,
        study_uuid=study.user_attrs.get(schema.STUDY_UUID, ""),
        objective=study.user_attrs.get(schema.OBJECTIVE, "f1_micro"),
        completed_trials=len(completed),
        trials=tuple(_describe(trial, folder) for trial in chosen),
        out_dir=str(out_dir.absolute()),
    )


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
    return sorted(completed, key=lambda trial: -trial.values[0])[:ensemble]


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


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study/export.py", description=__doc__)
    parser.add_argument("name", metavar="STUDY", help="name of the study")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--best", action="store_true", help="the completed trial of the highest score; the default")
    which.add_argument("--trial", type=int, metavar="N", help="this one instead")
    which.add_argument(
        "--ensemble", type=int, default=1, metavar="K", help="the mean of the probabilities of the K best trials"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--storage", metavar="URL", help="the study's database; default: its own SQLite file")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
