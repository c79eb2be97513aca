"""What prepare leaves behind: the manifest, and the labels and names of each split."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from storage.protocol.files import write_atomically
from trainers.bigearthnet import Version
from trainers.bigearthnet.bands import BYTES_PER_PATCH, ROW, SHARD_FORMAT
from trainers.bigearthnet.checksum import sha256_of
from trainers.bigearthnet.labels import CLASSES, decode
from trainers.datasets import DatasetError, Split

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class ShardEntry:
    path: str
    """Beside the manifest."""
    patches: int
    sha256: str


@dataclass(frozen=True)
class SplitManifest:
    patches: int
    class_counts: dict[str, int]
    labels_sha256: str
    names_sha256: str
    shards: tuple[ShardEntry, ...]


def _software() -> dict[str, str]:
    return {name: installed_version(name) for name in ("numpy", "pyarrow", "rasterio")}


def _row() -> dict[str, int]:
    return {band.name: band.size for band in ROW}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json: written when all shards are there, so that whoever finds it finds all."""

    shard_format: int
    archive_version: Version
    software: dict[str, str] = field(default_factory=_software)
    row: dict[str, int] = field(default_factory=_row)
    """Bands in the order of a row, with their height and width in pixels."""
    lists_sha256: dict[str, str]
    limit: int | None
    has_official_sizes: bool
    dropped: dict[str, int]
    """Patches of the archive that the official lists drop, by reason."""
    bad_patches: int
    splits: dict[Split, SplitManifest]

    def write(self, folder: Path) -> None:
        write_atomically(folder / MANIFEST_NAME, TypeAdapter(Manifest).dump_json(self, indent=1) + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of prepared data, after a look at the size of every shard.

    Raises:
        DatasetError: The folder holds no whole preparation.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); path must be the --out of a "
            "`python -m trainers.datasets.bigearthnet prepare` that ended well."
        ) from error
    except ValidationError as error:
        raise DatasetError(f"{path} is damaged or of another version: {error}; prepare the data again.") from error
    if manifest.shard_format != SHARD_FORMAT:
        raise DatasetError(
            f"{path} describes shards of format {manifest.shard_format}, and this version reads {SHARD_FORMAT}; "
            "prepare the data again."
        )
    for split in manifest.splits.values():
        for shard in split.shards:
            _check_size(folder / shard.path, shard.patches * BYTES_PER_PATCH)
    return manifest


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size if path.exists() else None
    if size != expected:
        found = "is missing" if size is None else f"has {size} bytes instead of {expected}"
        raise DatasetError(f"{path} {found}; delete it and give the command that prepared it again.")


def damaged_files(
    folder: Path, manifest: Manifest, on_patches: Callable[[int], None] = lambda patches: None
) -> Iterator[Path]:
    """The files whose content is no more what prepare wrote, by the checksums of the manifest.

    Args:
        on_patches: Called with the number of patches of each shard that has been read.
    """
    for split, entries in manifest.splits.items():
        files = (("labels.npy", entries.labels_sha256), ("names.txt", entries.names_sha256))
        yield from (path for name, sha256 in files if not _holds(path := folder / split / name, sha256))
        for shard in entries.shards:
            if not _holds(folder / shard.path, shard.sha256):
                yield folder / shard.path
            on_patches(shard.patches)


def _holds(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def write_split(
    folder: Path, split: Split, names: Sequence[str], classes: NDArray[np.uint32], shards: tuple[ShardEntry, ...]
) -> SplitManifest:
    """Write a split's labels.npy, uint8 [patches, 19], and names.txt, both in the order of the shards' rows."""
    labels = decode(classes)
    buffer = io.BytesIO()
    np.save(buffer, labels)
    label_bytes, name_bytes = buffer.getvalue(), "".join(f"{name}\n" for name in names).encode()
    write_atomically(folder / split / "labels.npy", label_bytes)
    write_atomically(folder / split / "names.txt", name_bytes)
    counts = dict(zip(CLASSES, labels.sum(axis=0, dtype=np.int64).tolist(), strict=True))
    return SplitManifest(
        patches=len(names),
        class_counts=counts,
        labels_sha256=hashlib.sha256(label_bytes).hexdigest(),
        names_sha256=hashlib.sha256(name_bytes).hexdigest(),
        shards=shards,
    )


def read_labels(folder: Path, split: Split, manifest: Manifest) -> NDArray[np.uint8]:
    """Labels of a split, uint8 [patches, 19].

    Raises:
        DatasetError: They are not there, or not those of the manifest, by its checksum.
    """
    path, expected = folder / split / "labels.npy", manifest.splits[split].labels_sha256
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}; give the command that prepared it again.") from error
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise DatasetError(
            f"{path} is not what prepare wrote: its sha256 is {found[:12]}..., not {expected[:12]}...; give the "
            "command that prepared it again."
        )
    labels: NDArray[np.uint8] = np.load(io.BytesIO(content))
    return labels


def read_names(folder: Path, split: Split) -> list[str]:
    """Names of a split's patches, in the order of their rows."""
    return (folder / split / "names.txt").read_text().splitlines()
