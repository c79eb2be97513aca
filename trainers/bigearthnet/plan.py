"""Which patch goes into which shard: decided before any pixel is read, from the lists and the archive's folders."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.bigearthnet import PrepareError, Version
from trainers.bigearthnet.archive import Archive, canonical_name
from trainers.bigearthnet.bands import SHARD_FORMAT
from trainers.bigearthnet.split_lists import STATUS_OF_SPLIT, SplitLists, Status
from trainers.datasets import Split

OFFICIAL_ARCHIVE_SIZE = {Version.V1: 590_326, Version.V2: 549_488}
OFFICIAL_SIZES = {
    Version.V1: {Split.TRAIN: 269_695, Split.VAL: 123_723, Split.TEST: 125_866},
    Version.V2: {Split.TRAIN: 237_871, Split.VAL: 122_342, Split.TEST: 119_825},
}
"""Sources: the lists of BigEarthNet-19 (v1), metadata.parquet (v2)."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: the patches that are to be in it, in order."""

    split: Split
    number: int
    names: tuple[str, ...]
    folder_names: tuple[str, ...]
    """As the archive spells the names."""
    classes: tuple[int, ...] | None
    """None for v1, whose labels are beside the pixels."""

    @property
    def stem(self) -> str:
        return f"{self.split}/{self.number:05d}"


@dataclass(frozen=True)
class Plan:
    lists: SplitLists
    rows: dict[Split, NDArray[np.int64]]
    """Rows of the lists, in the order of the shards."""
    spellings: dict[int, str]
    """From a row to its folder's name, where archive and list spell it differently."""
    bad: tuple[tuple[str, str], ...]
    """Names and reasons of what needs no look at the pixels."""
    dropped: dict[str, int]
    """Patches of the archive that the lists drop, by reason."""
    archive_size: int
    patches_per_shard: int
    limit: int | None

    @property
    def patch_count(self) -> int:
        return sum(map(len, self.rows.values()))

    @property
    def is_of_whole_archive(self) -> bool:
        return self.limit is None and self.archive_size >= OFFICIAL_ARCHIVE_SIZE[self.lists.version]

    def shards(self) -> Iterator[ShardPlan]:
        for split, rows in self.rows.items():
            for number, start in enumerate(range(0, len(rows), self.patches_per_shard)):
                shard_rows = rows[start : start + self.patches_per_shard]
                names = tuple(name.decode() for name in self.lists.names[shard_rows])
                folder_names = tuple(
                    self.spellings.get(row, name) for row, name in zip(shard_rows.tolist(), names, strict=True)
                )
                classes = None
                if self.lists.version is Version.V2:
                    classes = tuple(self.lists.classes[shard_rows].tolist())
                yield ShardPlan(split, number, names, folder_names, classes)

    def digest(self) -> str:
        """Tells apart plans that would write other shards."""
        digest = hashlib.sha256(f"{SHARD_FORMAT} {self.lists.version} {self.patches_per_shard}".encode())
        for split, rows in self.rows.items():
            digest.update(split.encode())
            # In pieces, because a copy of all names would be the largest thing in memory.
            for start in range(0, len(rows), 8192):
                digest.update(self.lists.names[rows[start : start + 8192]].tobytes())
                digest.update(self.lists.classes[rows[start : start + 8192]].tobytes())
        return digest.hexdigest()


def make_plan(archive: Archive, lists: SplitLists, patches_per_shard: int, limit: int | None = None) -> Plan:
    """Plan the shards of all patches that the lists put into a split, or of `limit` of those that are there.

    Patches are dealt to shards at random, always alike: neighbours on the ground end up in different shards, and any
    run of a shard is a fair sample of its split.

    Raises:
        PrepareError: The archive holds no patch of any split.
    """
    scan = _scan(archive, lists)
    candidates = np.flatnonzero(lists.status <= Status.TEST)
    present = candidates[scan.is_present[candidates]]
    if not len(present):
        raise PrepareError(
            f"none of the {scan.folder_count} patches in {archive.root} is one of the {len(candidates)} that the lists "
            "put into a split; is the archive unpacked, and are --splits its lists?"
        )
    if limit is not None:
        candidates = present
    shuffled = np.random.default_rng(0).permutation(candidates)[:limit]
    rows = {split: shuffled[lists.status[shuffled] == code] for split, code in STATUS_OF_SPLIT.items()}
    dropped_by = lists.status[scan.is_present & (lists.status > Status.TEST)]
    dropped = Counter(Status(code).name.lower() for code in dropped_by)
    return Plan(
        lists=lists,
        rows=rows,
        spellings=scan.spellings,
        bad=tuple(sorted({*scan.bad, *lists.bad})),
        dropped=dict(sorted(dropped.items())),
        archive_size=scan.folder_count,
        patches_per_shard=patches_per_shard,
        limit=limit,
    )


@dataclass
class _Scan:
    is_present: NDArray[np.bool_]
    """For each row of the lists, whether the archive has its folder."""
    spellings: dict[int, str]
    bad: list[tuple[str, str]]
    folder_count: int = 0


def _scan(archive: Archive, lists: SplitLists) -> _Scan:
    scan = _Scan(np.zeros(len(lists), np.bool_), {}, [])
    contradicted = {name for name, _ in lists.bad}
    folders = archive.folders()
    while chunk := list(islice(folders, 8192)):
        scan.folder_count += len(chunk)
        keys = [canonical_name(archive.version, folder.name) for folder in chunk]
        rows = lists.rows_of(np.array([(key or "").encode() for key in keys], lists.keys.dtype))
        for folder, key, row in zip(chunk, keys, rows.tolist(), strict=True):
            if key is None:
                scan.bad.append((folder.name, f"no name of a {archive.version} patch"))
            elif row >= 0:
                _note_presence(scan, archive, lists, folder, row)
            elif key not in contradicted:
                scan.bad.append((folder.name, "in no split, and on no list of dropped patches"))
    return scan


def _note_presence(scan: _Scan, archive: Archive, lists: SplitLists, folder: Path, row: int) -> None:
    expected = archive.folder(folder.name)
    if folder != expected:
        scan.bad.append((folder.name, f"duplicate or misplaced: lies in {folder.parent.name}"))
        return
    listed_name = lists.names[row].decode()
    if scan.is_present[row]:
        # Two folders, two spellings. The one that the list spells is kept.
        spelling = scan.spellings.pop(row, None) if folder.name == listed_name else folder.name
        scan.bad.append((spelling or folder.name, f"duplicate of {listed_name}"))
        return
    scan.is_present[row] = True
    if folder.name != listed_name:
        scan.spellings[row] = folder.name
