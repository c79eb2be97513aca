"""With what code and on what data a study is opened: what a reader of its numbers asks first."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from storage.database.schema import Opening

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("dask", "dask-jobqueue", "horovod", "keras", "numpy", "optuna", "scipy", "tensorflow", "tensorflow-cpu")
_GIT_WITHIN_S = 10.0

# A data set's lists: who has them knows which images and labels there are. The images themselves may be terabytes.
_INDEX_SUFFIXES = {".csv", ".json", ".parquet", ".txt"}
_MAX_INDEX_FILES = 20
_MAX_INDEX_BYTES = 16 * 2**20


def describe_opening(dataset_options: Mapping[str, Any], now: datetime, root: Path = _ROOT) -> Opening:
    """What a driver that opens a study now runs and reads.

    Args:
        dataset_options: Of the config's data set; its `path` is where its files lie, if it has any.
        now: UTC.
        root: Of the checkout that the driver runs from.
    """
    commit = _git(root, "rev-parse", "HEAD")
    changes = None if commit is None else _git(root, "status", "--porcelain", "--untracked-files=no")
    path = dataset_options.get("path")
    return Opening(
        first_at=now.isoformat(timespec="seconds"),
        commit=commit,
        is_modified=bool(changes),
        versions={"python": platform.python_version(), **_installed_versions()},
        data_sha256=_index_checksums(Path(path).expanduser()) if isinstance(path, str) else {},
    )


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, or None: this is no checkout of its own, there is no git, or it does not answer."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ("git", "-C", str(root), *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_WITHIN_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _index_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files at the top of a data set's folder that list its contents, by name."""
    try:
        files = [folder] if folder.is_file() else sorted(folder.iterdir())
        small = [
            file
            for file in files
            if file.suffix.lower() in _INDEX_SUFFIXES and file.is_file() and file.stat().st_size <= _MAX_INDEX_BYTES
        ]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in small[:_MAX_INDEX_FILES]}
    except OSError:
        # The preflight has read the data; without its checksums, a report says that they are unknown.
        return {}
