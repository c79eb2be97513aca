"""The official lists: which patch is in which split, and which patches are dropped."""

from __future__ import annotations

import bz2
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainers.bigearthnet import PrepareError, Version
from trainers.bigearthnet.archive import canonical_name
from trainers.bigearthnet.checksum import sha256_of
from trainers.bigearthnet.labels import UnknownLabelError, encode_19
from trainers.datasets import Split


class Status(IntEnum):
    """What the lists say of a patch. Whatever drops it outweighs a split."""

    TRAIN = 0
    VAL = 1
    TEST = 2
    SNOW = 3
    CLOUD_OR_SHADOW = 4
    NO_CLASS = 5

    @property
    def is_split(self) -> bool:
        return self <= Status.TEST


STATUS_OF_SPLIT = {Split.TRAIN: Status.TRAIN, Split.VAL: Status.VAL, Split.TEST: Status.TEST}

V1_LISTS = {
    "train": Status.TRAIN,
    "val": Status.VAL,
    "test": Status.TEST,
    "patches_with_seasonal_snow": Status.SNOW,
    "patches_with_cloud_and_shadow": Status.CLOUD_OR_SHADOW,
    "patches_with_no_19_class_targets": Status.NO_CLASS,
}
"""File names without .csv or .csv.bz2."""

V2_TABLE = "metadata.parquet"
V2_DROPPED_TABLE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
_V2_SPLITS = {"train": Status.TRAIN, "validation": Status.VAL, "test": Status.TEST}
_V2_COLUMNS = ("patch_id", "labels", "split", "contains_seasonal_snow", "contains_cloud_or_shadow")

# Fixed width: half a million names take 30 MB, where a list of str would take 60 and a dict 150.
_NAME = np.dtype("S56")

UNKNOWN_CLASSES = np.uint32(2**32 - 1)
"""Stands for the classes of a v1 patch, which are beside its pixels."""


@dataclass(frozen=True)
class _Rows:
    """Rows of the lists, as they stand there."""

    keys: NDArray[np.bytes_]
    names: NDArray[np.bytes_]
    status: NDArray[np.uint8]
    classes: NDArray[np.uint32]

    def at(self, indices: NDArray[np.int64]) -> _Rows:
        return _Rows(self.keys[indices], self.names[indices], self.status[indices], self.classes[indices])


@dataclass(frozen=True)
class SplitLists:
    """All patches of all lists, one row each, sorted by key."""

    version: Version
    keys: NDArray[np.bytes_]
    """Canonical names."""
    names: NDArray[np.bytes_]
    """As the lists spell them."""
    status: NDArray[np.uint8]
    classes: NDArray[np.uint32]
    bad: tuple[tuple[str, str], ...]
    """Names and reasons of patches that the lists contradict themselves about; they have no row."""
    sha256: dict[str, str]
    """Of each list, by file name."""

    def __len__(self) -> int:
        return len(self.keys)

    def rows_of(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The row of each key; -1 where there is none."""
        if not len(self):
            return np.full(len(keys), -1)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return np.where(self.keys[rows] == keys, rows, -1)


def read_split_lists(version: Version, path: Path) -> SplitLists:
    """The lists of v1 in a folder, or the metadata.parquet of v2 with the table of dropped patches beside it.

    Raises:
        PrepareError: A list is missing or cannot be understood.
    """
    return _read_v1(path) if version is Version.V1 else _read_v2(path)


def _read_v1(folder: Path) -> SplitLists:
    names, status, sha256 = [], [], {}
    for stem, listed_as in V1_LISTS.items():
        path = next((p for p in (folder / f"{stem}.csv", folder / f"{stem}.csv.bz2") if p.exists()), None)
        if path is None:
            if listed_as.is_split:
                raise PrepareError(f"{folder} holds no {stem}.csv; --splits must be the folder of the lists of v1.")
            continue
        names.append(np.fromiter(_read_names(path), _NAME))
        status.append(np.full(len(names[-1]), listed_as, np.uint8))
        sha256[path.name] = sha256_of(path)
    all_names = np.concatenate(names)
    keys = np.fromiter((canonical_name(Version.V1, name.decode()) for name in all_names), _NAME)
    listed = _Rows(keys, all_names, np.concatenate(status), np.full(len(keys), UNKNOWN_CLASSES))
    return _to_lists(Version.V1, listed, [], sha256)


def _read_names(path: Path) -> Iterator[bytes]:
    try:
        with bz2.open(path, "rt") if path.suffix == ".bz2" else path.open() as lines:
            for number, line in enumerate(lines, start=1):
                # The lists of the edition with Sentinel-1 name the radar patch in a second column.
                name = line.partition(",")[0].strip()
                if name and canonical_name(Version.V1, name) is None:
                    raise PrepareError(f"{path}, line {number}: {name[:80]!r} is not the name of a v1 patch.")
                if name:
                    yield name.encode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PrepareError(f"{path} cannot be read: {error}.") from error


def _read_v2(path: Path) -> SplitLists:
    if path.is_dir():
        path /= V2_TABLE
    dropped = path.with_name(V2_DROPPED_TABLE)
    tables = [path, dropped] if dropped.exists() else [path]
    bad: list[tuple[str, str]] = []
    parts = [_parse_batch(batch, path, bad) for batch in chain.from_iterable(map(_read_batches, tables))]
    if not parts:
        raise PrepareError(f"{path} holds no row; --splits must be the {V2_TABLE} of v2.")
    names, status, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
    sha256 = {table.name: sha256_of(table) for table in tables}
    return _to_lists(Version.V2, _Rows(names, names, status, classes), bad, sha256)


def _read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            if missing := set(_V2_COLUMNS) - set(file.schema_arrow.names):
                raise PrepareError(f"{path} has no column {', '.join(sorted(missing))}; it is not the metadata of v2.")
            yield from file.iter_batches(batch_size=8192, columns=list(_V2_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise PrepareError(f"{path} cannot be read: {error}; --splits must be the {V2_TABLE} of v2.") from error


def _parse_batch(
    batch: pa.RecordBatch, path: Path, bad: list[tuple[str, str]]
) -> tuple[NDArray[np.bytes_], NDArray[np.uint8], NDArray[np.uint32]]:
    names, status, classes = [], [], []
    columns = [batch[name].to_pylist() for name in _V2_COLUMNS]
    for name, labels, split, has_snow, has_cloud in zip(*columns, strict=True):
        if not name or canonical_name(Version.V2, name) is None:
            raise PrepareError(f"{path}: {name!r} is not the name of a v2 patch.")
        if has_snow or has_cloud:
            listed_as, encoded = (Status.SNOW if has_snow else Status.CLOUD_OR_SHADOW), 0
        elif split not in _V2_SPLITS:
            bad.append((name, f"its split is {split!r}, not {', '.join(_V2_SPLITS)}"))
            continue
        else:
            try:
                listed_as, encoded = _V2_SPLITS[split], encode_19(labels or ())
            except UnknownLabelError as error:
                bad.append((name, f"{V2_TABLE}: {error}"))
                continue
        names.append(name.encode())
        status.append(listed_as)
        classes.append(encoded)
    return np.array(names, _NAME), np.array(status, np.uint8), np.array(classes, np.uint32)


def _to_lists(version: Version, listed: _Rows, bad: Sequence[tuple[str, str]], sha256: dict[str, str]) -> SplitLists:
    rows, all_bad = _without_contradictions(listed, bad)
    return SplitLists(version, rows.keys, rows.names, rows.status, rows.classes, all_bad, sha256)


def _without_contradictions(rows: _Rows, bad: Sequence[tuple[str, str]]) -> tuple[_Rows, tuple[tuple[str, str], ...]]:
    """One row per patch: what drops it wins, and a patch that is in two splits, or twice in one, is bad.

    Args:
        bad: What is bad already. Rows of these patches are left out, too.
    """
    rows = rows.at(np.lexsort((rows.status, rows.keys)))
    keys, first, count = np.unique(rows.keys, return_index=True, return_counts=True)
    found = list(bad)
    # Rows of a patch follow one another, splits first: when the second is of a split, it contradicts the first.
    for patch in np.flatnonzero(count > 1):
        listed = [Status(code) for code in rows.status[first[patch] : first[patch] + count[patch]]]
        if listed[1].is_split:
            splits = [status.name.lower() for status in listed if status.is_split]
            found.append((keys[patch].decode(), f"listed in {' and in '.join(splits)}"))
    is_bad = np.isin(keys, np.array([name for name, _ in found], _NAME))
    return rows.at((first + count - 1)[~is_bad]), tuple(found)
