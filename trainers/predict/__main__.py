"""`python -m trainers.predict < REQUEST`: a PredictRequest as JSON on standard input. One process, no MPI, no GPU."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from storage.protocol.codec import from_json
from storage.protocol.exit_codes import ExitCode
from storage.protocol.exports import ExportRecord, PredictRequest
from trainers.datasets import DatasetError
from trainers.datasets.image_folder import TIFF_SUFFIXES
from trainers.lean_imports import import_tensorflow
from trainers.predict import PredictionError
from trainers.predict.exported import Classify, load_classifier, read_record
from trainers.predict.samples import find_inputs
from trainers.predict.table import write_table

_TABLE_SUFFIX = ".csv"


def main() -> int:
    # What is written aside is removed on the way out.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The login node may have no GPU, and one that is taken would be missing to a trial.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    request = from_json(PredictRequest, sys.stdin.read())
    try:
        predict(request)
    except (PredictionError, DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.BAD_SPEC
    return 0


def predict(request: PredictRequest) -> None:
    """Check all that can be checked, load the model, and write what is asked for.

    Raises:
        PredictionError, DatasetError, OSError: The export, an input or the output cannot be used.
    """
    folder, out = Path(request.export_dir), Path(request.out)
    if out.exists():
        raise PredictionError(f"--out: {out} is there already; give another name, or remove it first.")
    record = read_record(folder)
    suffix = out.suffix.lower()
    if suffix == _TABLE_SUFFIX:
        _predict_table(request, folder, record, out)
    elif suffix in TIFF_SUFFIXES:
        _predict_map(request, folder, record, out)
    else:
        raise PredictionError(
            f"--out: {out} must end in {_TABLE_SUFFIX} for a table, or in {TIFF_SUFFIXES[0]} for the map of a scene."
        )


def _predict_table(request: PredictRequest, folder: Path, record: ExportRecord, out: Path) -> None:
    if request.stride is not None:
        raise PredictionError("--stride is for the map of a scene, and --out names a table; leave it out.")
    files = find_inputs(request.inputs, record)
    classify = _load(folder, record)
    with _written_aside(out) as scratch, _progress("images", sum(file.samples for file in files)) as report:
        write_table(scratch, files, record, classify, report)
    print(f"{out}: {sum(file.samples for file in files)} rows")


def _predict_map(request: PredictRequest, folder: Path, record: ExportRecord, out: Path) -> None:
    # A folder of JPEG has no use for rasterio, which takes a second to import.
    from trainers.predict.scene import inspect_scene, write_map

    if len(request.inputs) != 1:
        raise PredictionError(f"a map is of one scene, and there are {len(request.inputs)} inputs; name one of them.")
    scene = inspect_scene(Path(request.inputs[0]), record, request.stride)
    classify = _load(folder, record)
    with _written_aside(out) as scratch, _progress("rows of windows", len(scene.tiling.tops())) as report:
        write_map(scratch, scene, record, classify, report)
    print(f"{out}: {scene.tiling.cell_columns} x {scene.tiling.cell_rows} pixels, a band for each class")


def _load(folder: Path, record: ExportRecord) -> Classify:
    import_tensorflow()
    return load_classifier(folder, record)


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """A name beside the path, renamed to it at the end: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield scratch
        scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; gives what is to be called with the number that is done since the last call."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


if __name__ == "__main__":
    sys.exit(main())
