"""A shard on the disk: its rows, and the record of what they are, which is written last."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from storage.protocol.files import write_atomically
from trainers.bigearthnet.archive import Archive, PatchError, reading
from trainers.bigearthnet.bands import BYTES_PER_PATCH, ROW_DTYPE, VALUES_PER_PATCH
from trainers.bigearthnet.checksum import sha256_of
from trainers.bigearthnet.plan import ShardPlan


@dataclass(frozen=True)
class ShardRecord:
    """What is in a shard."""

    names: tuple[str, ...]
    classes: tuple[int, ...]
    sha256: str
    bad: tuple[tuple[str, str], ...]

    @property
    def planned_patches(self) -> int:
        return len(self.names) + len(self.bad)


_RECORD = TypeAdapter(ShardRecord)


def has_record(shard: ShardPlan, out: Path) -> bool:
    return _record_path(shard, out).exists()


def read_finished(shard: ShardPlan, out: Path) -> ShardRecord | None:
    """The record of a shard that is there and whole, or None if it is to be written (again).

    So it is with a shard that is not what was written, and with one with bad patches, because they may be mended.
    """
    try:
        record = _RECORD.validate_json(_record_path(shard, out).read_bytes())
        if record.bad or record.names != shard.names or len(record.classes) != len(record.names):
            return None
        # The size first: it tells of most damage, and takes no reading.
        size = _rows_path(shard, out).stat().st_size
        is_whole = size == len(record.names) * BYTES_PER_PATCH and sha256_of(_rows_path(shard, out)) == record.sha256
    except (FileNotFoundError, ValidationError):
        return None
    return record if is_whole else None


def write_shard(shard: ShardPlan, archive: Archive, out: Path) -> ShardRecord:
    """Read the patches of one shard, and write it with its record."""
    names: list[str] = []
    all_classes: list[int] = []
    bad: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    path = _rows_path(shard, out)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    row = np.empty(VALUES_PER_PATCH, ROW_DTYPE)
    try:
        with reading(), scratch.open("wb", buffering=0) as file:
            for index, name in enumerate(shard.names):
                try:
                    classes = _read_patch(shard, index, archive, row)
                except PatchError as error:
                    bad.append((name, str(error)))
                    continue
                _write_all(file, row)
                digest.update(row.data)
                names.append(name)
                all_classes.append(classes)
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    record = ShardRecord(tuple(names), tuple(all_classes), digest.hexdigest(), tuple(bad))
    write_atomically(_record_path(shard, out), _RECORD.dump_json(record))
    return record


def _rows_path(shard: ShardPlan, out: Path) -> Path:
    return out / f"{shard.stem}.u16"


def _record_path(shard: ShardPlan, out: Path) -> Path:
    return out / f"{shard.stem}.json"


def _read_patch(shard: ShardPlan, index: int, archive: Archive, row: np.ndarray) -> int:
    """Fill the row with a patch's pixels, and give its classes."""
    folder_name = shard.folder_names[index]
    try:
        classes = archive.read_classes(folder_name) if shard.classes is None else shard.classes[index]
        if classes == 0:
            raise PatchError("none of its labels is in the 19 classes, though no list drops it")
        archive.read_pixels(folder_name, row)
    except PatchError as error:
        if not archive.folder(folder_name).is_dir():
            raise PatchError(f"in the split {shard.split}, but not in the archive") from error
        raise
    return classes


def _write_all(file: io.FileIO, row: np.ndarray) -> None:
    view = row.data.cast("B")
    while view:
        # Near the end of a disk or a quota, less than all is written before the error comes.
        view = view[file.write(view) :]
