"""Image files and arrays as stored samples: what the export's model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.protocol.exports import ExportRecord
from trainers.datasets.image_folder import SUFFIXES, decode_image, describe_image, without_georeference_warning
from trainers.predict import PredictionError

_ARRAY_SUFFIX = ".npy"
_IMAGE_RANK = 3


@dataclass(frozen=True)
class InputFile:
    path: Path
    samples: int
    """1 in an image, rows of an array."""


def find_inputs(names: Sequence[str], record: ExportRecord) -> list[InputFile]:
    """The files that are named, and the images in the folders and their subfolders, sorted by path.

    Images are not decoded; of arrays, the headers are read.

    Raises:
        PredictionError: One is not there, is not an image or array, or an array does not fit the model.
    """
    files = [file for name in names for file in _files_of(Path(name))]
    return [_inspect(file, record) for file in files]


def read_samples(files: Sequence[InputFile], record: ExportRecord) -> Iterator[tuple[str, NDArray[np.integer]]]:
    """Each sample's name and its pixels [*input_shape]; a row of an array is named `FILE.npy[ROW]`.

    Raises:
        PredictionError: An image does not fit the model.
        DatasetError: One cannot be decoded.
    """
    for file in files:
        if file.path.suffix.lower() == _ARRAY_SUFFIX:
            rows = np.load(file.path, mmap_mode="r")
            yield from ((f"{file.path}[{number}]", row) for number, row in enumerate(rows))
        else:
            yield str(file.path), _read_image(file.path, record)


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        if images := sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()):
            return images
        raise PredictionError(f"{path} holds no image; one's name ends in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise PredictionError(f"{path} is not there; name image files, folders of them or .npy arrays.")
    if path.suffix.lower() not in (*SUFFIXES, _ARRAY_SUFFIX):
        raise PredictionError(f"{path} is of no kind that is read; those are {', '.join((*SUFFIXES, _ARRAY_SUFFIX))}.")
    return [path]


def _inspect(path: Path, record: ExportRecord) -> InputFile:
    if path.suffix.lower() == _ARRAY_SUFFIX:
        return InputFile(path, _count_rows(path, record))
    if len(record.input_shape) != _IMAGE_RANK:
        raise PredictionError(
            f"{path} is an image, and the model takes samples of {record.input_shape[0]} {record.input_dtype} values, "
            f"bands of several resolutions packed; give them as a .npy array [n, {record.input_shape[0]}]."
        )
    return InputFile(path, 1)


def _count_rows(path: Path, record: ExportRecord) -> int:
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise PredictionError(f"{path} cannot be read as an array: {error}; write it with numpy.save.") from error
    if rows.shape[1:] != record.input_shape or rows.ndim == 0 or rows.dtype != record.input_dtype:
        raise PredictionError(
            f"{path} is {rows.dtype} [{', '.join(map(str, rows.shape))}], and the model takes {record.input_dtype} "
            f"[n, {', '.join(map(str, record.input_shape))}], samples as the data set stores them."
        )
    return len(rows)


def _read_image(path: Path, record: ExportRecord) -> NDArray[np.integer]:
    with without_georeference_warning():
        pixels = decode_image(path, record.input_shape[0] if record.resizes_images else None)
    if pixels.shape == record.input_shape and pixels.dtype == record.input_dtype:
        return pixels
    advice = "give it images like those of its data set"
    if pixels.shape[2] == record.input_shape[2] and not record.resizes_images:
        advice = "its data set does not resize images; a georeferenced scene is read with --out NAME.tif"
    raise PredictionError(
        f"{path} is {describe_image(pixels.shape, pixels.dtype)}, and the model takes "
        f"{describe_image(record.input_shape, np.dtype(record.input_dtype))}; {advice}."
    )
