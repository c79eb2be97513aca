"""Anybody's images, beside a table of their labels:

    PATH/labels.csv    image,split,grass,water      one row per image: its path beside the table, train, val or test,
                       tiles/0001.tif,train,1,0     and 0 or 1 for each class
    PATH/tiles/0001.tif

JPEG and PNG are read by Pillow, TIFF with any number of bands by rasterio. Decoding costs more than an epoch of a small
network, so it is done once: all images go into one array under the cache directory, from which they are mapped into
memory ever after. Where locks do not reach across nodes, each node decodes once and the first to finish wins.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from trainers.augmentation import Augmentation, check_augmentation
from trainers.components import ComponentError
from trainers.datasets import ArraySource, DatasetError, Split, standardise

if TYPE_CHECKING:
    import tensorflow as tf

_LOG = logging.getLogger(__name__)

TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (".jpg", ".jpeg", ".png", *TIFF_SUFFIXES)
_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))

# Pillow's modes other than gray and colour, and what they become: palettes are looked up, alpha is dropped.
_PLAIN_MODES = {"1": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "CMYK": "RGB"}

# Counted up when what is written to the cache changes, so that no old entry is taken for a new one.
_CACHE_FORMAT = 1

# Images decoded ahead of the one that is written: keeps all cores busy and memory small.
_IMAGES_AHEAD = 256


def build(
    cache_dir: str | Path,
    *,
    path: str,
    labels: str = "labels.csv",
    size: int | None = None,
    augment: bool = False,
    shift: int = 0,
) -> ImageFolder:
    """The images of a folder. Checks the table and that the images are there, and decodes the first one only.

    Args:
        cache_dir: Where the decoded images are kept. Another image, split or size makes a new entry; other labels do
            not.
        path: The folder that holds the table.
        labels: The table's name in it.
        size: Height and width, in pixels, that all images are resized to; None if they are of one size already.
        augment: Whether training images are flipped and turned by quarters at random; they must be square then.
        shift: Largest shift of a training image at random, in pixels, along each axis.

    Raises:
        ComponentError: size or shift is out of its range, or images that are not square cannot be turned.
        DatasetError: The table or an image is not as it should be.
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ComponentError(f"image_folder: size={size!r}; it must be an integer of 1 or more, in pixels.")
    folder = Path(path).expanduser()
    return open_images("image_folder", cache_dir, folder, _read_table(folder / labels), size, augment, shift)


def open_images(
    component: str,
    cache_dir: str | Path,
    folder: Path,
    table: LabelTable,
    size: int | None,
    augment: bool = False,
    shift: int = 0,
) -> ImageFolder:
    """The images of a table, wherever it came from.

    Args:
        component: The data set's name, for errors.

    Raises:
        ComponentError: As `build`.
        DatasetError: An image is missing, or the first is broken.
    """
    cache_path = Path(cache_dir) / f"image_folder-{_fingerprint(folder, table, size)}"
    files = tuple(folder / image for image in table.images)
    with without_georeference_warning():
        first = decode_image(files[0], size)
    height, width = first.shape[:2]
    if augment and height != width:
        raise ComponentError(
            f"{component}: augment=true turns images by quarters, and these are {height} x {width}; crop them or set "
            "size."
        )
    augmentation = check_augmentation(component, augment, shift, min(height, width))
    return ImageFolder(table, files, size, first.shape, first.dtype, cache_path, augmentation)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Samples are uint8 or uint16 [height, width, bands], as in the files."""

    table: LabelTable
    files: tuple[Path, ...]
    """In the order of the table's rows."""
    size: int | None
    sample_shape: tuple[int, ...]
    sample_dtype: np.dtype
    cache_path: Path
    augmentation: Augmentation

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.table.class_names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        height, width, bands = self.sample_shape
        return (height, width, bands)

    def sizes(self) -> dict[Split, int]:
        return dict(self.table.sizes)

    def open(self, split: Split) -> ArraySource:
        """The samples of one split; the first call ever decodes all splits.

        Raises:
            DatasetError: An image is broken or not like the first one, or the cache cannot be written.
        """
        rows = self.table.rows_of(split)
        return ArraySource(self._decoded.samples[rows], self.table.labels[rows])

    def to_model_input(self, samples: tf.Tensor) -> tf.Tensor:
        return standardise(samples, self._decoded.mean, self._decoded.std)

    def augment(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return self.augmentation(images, seed)

    @cached_property
    def _decoded(self) -> _Decoded:
        try:
            self.cache_path.parent.mkdir(parents=True, exist_ok=True)
            # Several ranks and several trials start at once; one of them decodes while the others wait.
            with FileLock(f"{self.cache_path}.lock"):
                if not self.cache_path.exists():
                    self._decode_into_cache()
        except OSError as error:
            gib = len(self.files) * np.prod(self.sample_shape) * self.sample_dtype.itemsize / 2**30
            raise DatasetError(
                f"the decoded images ({gib:.2f} GiB) cannot be kept in {self.cache_path.parent}: {error}; "
                "make room there or set another cache_dir."
            ) from error
        return _Decoded.load(self.cache_path)

    def _decode_into_cache(self) -> None:
        _LOG.info("decoding %d images into %s", len(self.files), self.cache_path)
        scratch = self.cache_path.with_name(f"{self.cache_path.name}.partial-{uuid.uuid4().hex}")
        scratch.mkdir()
        try:
            statistics = self._write_samples(scratch / "samples.npy")
            (scratch / "statistics.json").write_text(json.dumps(statistics))
            scratch.rename(self.cache_path)
        except BaseException as error:
            shutil.rmtree(scratch, ignore_errors=True)
            if isinstance(error, OSError) and self.cache_path.exists():
                return  # Another node was faster.
            raise

    def _write_samples(self, path: Path) -> dict[str, list[float]]:
        """Decode all images into one .npy; gives mean and standard deviation per band of the training split."""
        pixel_sum, pixel_sq_sum = np.zeros((2, self.sample_shape[-1]))
        training_count = self.table.sizes[Split.TRAIN]
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        # Written, not mapped: on a full disk a write raises an error, a mapped page kills the process.
        with without_georeference_warning(), pool, path.open("wb") as file:
            header = {
                "descr": np.lib.format.dtype_to_descr(self.sample_dtype),
                "fortran_order": False,
                "shape": (len(self.files), *self.sample_shape),
            }
            np.lib.format.write_array_header_1_0(file, header)
            for index, pixels in enumerate(self._decode_all(pool)):
                file.write(pixels.tobytes())
                if index < training_count:
                    flat = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
                    pixel_sum += flat.sum(axis=0)
                    pixel_sq_sum += (flat**2).sum(axis=0)
            file.flush()
            os.fsync(file.fileno())
        pixel_count = training_count * self.sample_shape[0] * self.sample_shape[1]
        mean = pixel_sum / pixel_count
        std = np.sqrt(np.maximum(pixel_sq_sum / pixel_count - mean**2, 0))
        # A band that never changes, such as an empty one, tells nothing: 1 makes it 0 everywhere instead of NaN.
        return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1).tolist()}

    def _decode_all(self, pool: ThreadPoolExecutor) -> Iterator[NDArray[np.integer]]:
        """The pixels of each file, in order."""
        for start in range(0, len(self.files), _IMAGES_AHEAD):
            files = self.files[start : start + _IMAGES_AHEAD]
            for file, pixels in zip(files, pool.map(lambda file: decode_image(file, self.size), files), strict=True):
                self._check_alike(file, pixels)
                yield pixels

    def _check_alike(self, file: Path, pixels: NDArray[np.integer]) -> None:
        if (pixels.shape, pixels.dtype) == (self.sample_shape, self.sample_dtype):
            return
        raise DatasetError(
            f"{file} is {describe_image(pixels.shape, pixels.dtype)}, but {self.files[0]} is "
            f"{describe_image(self.sample_shape, self.sample_dtype)}; all images must be alike, "
            "though with the option size=... their heights and widths may differ."
        )


class _Decoded(NamedTuple):
    """An entry of the cache."""

    samples: NDArray[np.integer]
    """[rows, height, width, bands], mapped from the file."""
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def load(cls, path: Path) -> _Decoded:
        try:
            samples = np.load(path / "samples.npy", mmap_mode="r")
            statistics = json.loads((path / "statistics.json").read_text())
            return cls(samples, np.array(statistics["mean"], np.float32), np.array(statistics["std"], np.float32))
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(f"{path} is damaged ({error}); delete it, and it will be made again.") from error


class TableRow(NamedTuple):
    image: str
    split: Split
    labels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labelled images: the rows of train, then of val, then of test, each in the order in which they came."""

    class_names: tuple[str, ...]
    images: tuple[str, ...]
    """Paths beside the table."""
    labels: NDArray[np.uint8]
    """[rows, classes]"""
    sizes: dict[Split, int]

    @classmethod
    def of(cls, rows: Sequence[TableRow], class_names: tuple[str, ...], source: str) -> LabelTable:
        """The rows sorted by split.

        Raises:
            DatasetError: A split that a training needs is empty; names the source of the rows.
        """
        sizes = {split: sum(row.split is split for row in rows) for split in Split}
        for split in (Split.TRAIN, Split.VAL):
            if sizes[split] == 0:
                raise DatasetError(f"{source} has no image in the split {split}; train and val need at least one each.")
        rows = sorted(rows, key=lambda row: list(Split).index(row.split))
        return cls(
            class_names, tuple(row.image for row in rows), np.array([row.labels for row in rows], np.uint8), sizes
        )

    def rows_of(self, split: Split) -> slice:
        start = sum(self.sizes[earlier] for earlier in list(Split)[: list(Split).index(split)])
        return slice(start, start + self.sizes[split])


def _read_table(path: Path) -> LabelTable:
    try:
        # Spreadsheets begin a file with a byte order mark, which would become part of the first column's name.
        reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; path must be its folder.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}; save it as UTF-8.") from error
    header = next(reader, [])
    _check_header(header, path)
    rows = [_parse_row(cells, header, f"{path}, line {reader.line_num}") for cells in reader if cells]
    # ./a.png and a.png are one file, and one file in two splits would spoil the score.
    for image, count in Counter(PurePosixPath(row.image) for row in rows).items():
        if count > 1:
            raise DatasetError(f"{path} lists {image} {count} times; keep one row of it.")
    return LabelTable.of(rows, tuple(name for name in header if name not in ("image", "split")), str(path))


def _check_header(header: Sequence[str], path: Path) -> None:
    for name in ("image", "split"):
        if name not in header:
            raise DatasetError(f"{path} has no column {name!r}; its columns are {', '.join(header) or 'none'}.")
    for name, count in Counter(header).items():
        if count > 1 or not name:
            raise DatasetError(f"{path} has {count} column(s) called {name!r}; give each column a name of its own.")
    if len(header) == 2:
        raise DatasetError(f"{path} has no class; beside image and split it needs a column of 0 and 1 for each class.")


def _parse_row(cells: Sequence[str], header: Sequence[str], where: str) -> TableRow:
    if len(cells) != len(header):
        raise DatasetError(f"{where} has {len(cells)} cells; the header has {len(header)}.")
    values = dict(zip(header, cells, strict=True))
    image, split = values.pop("image"), values.pop("split")
    if split not in list(Split):
        raise DatasetError(f"{where}: split is {split!r}; it must be one of {', '.join(Split)}.")
    if Path(image).suffix.lower() not in SUFFIXES:
        raise DatasetError(f"{where}: image is {image!r}; its name must end in one of {', '.join(SUFFIXES)}.")
    for name, value in values.items():
        if value not in ("0", "1"):
            raise DatasetError(f"{where}: {name} is {value!r}; it must be 0 or 1.")
    return TableRow(image, Split(split), tuple(int(value) for value in values.values()))


def _fingerprint(folder: Path, table: LabelTable, size: int | None) -> str:
    """Tells apart whatever gives other pixels or statistics: 16 hexadecimal digits."""
    sizes = " ".join(map(str, table.sizes.values()))
    digest = hashlib.sha256(f"{_CACHE_FORMAT} {folder.resolve()} {size} {sizes}\n".encode())
    missing = []
    for image in table.images:
        try:
            status = (folder / image).stat()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(image)
        else:
            digest.update(f"{image} {status.st_size} {status.st_mtime_ns}\n".encode())
    if missing:
        raise DatasetError(
            f"{folder} lacks {len(missing)} of the {len(table.images)} images in its table, such as "
            f"{', '.join(missing[:3])}; put them there or take their rows out."
        )
    return digest.hexdigest()[:16]


def decode_image(file: Path, size: int | None) -> NDArray[np.integer]:
    """The pixels [height, width, bands] of one image, resized if `size` says so."""
    try:
        pixels = _read_tiff(file) if file.suffix.lower() in TIFF_SUFFIXES else _read_picture(file)
    # Pillow raises a SyntaxError for a PNG with a broken chunk.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file} cannot be decoded: {error}; replace it or leave it out.") from error
    if pixels.dtype not in _DTYPES:
        raise DatasetError(f"{file} holds {pixels.dtype} pixels; convert them to {' or '.join(map(str, _DTYPES))}.")
    return pixels if size is None else _resize(pixels, size)


def _read_picture(file: Path) -> NDArray[np.integer]:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert(_PLAIN_MODES.get(image.mode, image.mode)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _read_tiff(file: Path) -> NDArray[np.integer]:
    import rasterio  # A second to import, for which a folder of JPEG has no use.

    with rasterio.open(file) as image:
        return np.ascontiguousarray(np.moveaxis(image.read(), 0, -1))


def _resize(pixels: NDArray[np.integer], size: int) -> NDArray[np.integer]:
    """Band by band, because Pillow knows no image of more than four, and bilinear, which leaves no value range."""
    bands = [Image.fromarray(band) for band in np.moveaxis(pixels.astype(np.float32), -1, 0)]
    resized = [np.asarray(band.resize((size, size), Image.Resampling.BILINEAR)) for band in bands]
    return np.rint(np.stack(resized, axis=-1)).astype(pixels.dtype)


@contextmanager
def without_georeference_warning() -> Iterator[None]:
    """Rasterio warns of a TIFF that has no place on Earth. Not for use in a thread: the filters are the process's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Dataset has no geotransform")
        yield


def describe_image(shape: Sequence[int], dtype: np.dtype) -> str:
    height, width, bands = shape
    return f"{height} x {width} with {bands} bands of {dtype}"
