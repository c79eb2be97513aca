"""Write a trained trial as a model to use: a Keras file, a SavedModel, export.json and a model card."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402

import optuna  # noqa: E402
from rich.console import Console  # noqa: E402

from storage.database.endpoint import StorageError  # noqa: E402
from study.export_request import ExportRequestError, code_folders, make_request  # noqa: E402
from study.model_process import run_trainers_program  # noqa: E402

_EXIT_BAD_INPUT = 2


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
    with Console(stderr=True).status(
        "TensorFlow builds the model, and compares what it has written with the trainer's"
    ):
        exit_code = run_trainers_program("trainers.export", request, code_folders(request))
    if exit_code == 0:
        numbers = ", ".join(f"{trial.number} ({request.objective} {trial.score:.4f})" for trial in request.trials)
        Console().print(f"exported trial {numbers} to {arguments.out}", highlight=False, markup=False, soft_wrap=True)
    return exit_code


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
