"""Where a report is written: checked before anything is read or drawn."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from study.reporting.load import ReportError


def check_file(path: Path, option: str, suffixes: Collection[str] = ()) -> None:
    """See that a file can be written under this name.

    Args:
        suffixes: Of which it must have one; none: it may have any.

    Raises:
        ReportError: It cannot. The message names the option.
    """
    if path.is_dir():
        raise ReportError(f"{option} {path} is a folder; name a file, such as {path / 'report.html'}.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ReportError(f"{option} {path}: a figure's name ends with {', '.join(sorted(suffixes))}.")
    _require_folder(path.parent, option, path)


def check_folder(path: Path, option: str) -> None:
    """See that files can be written into a folder of this name, which may be there or not.

    Raises:
        ReportError: It cannot. The message names the option.
    """
    if path.exists() and not path.is_dir():
        raise ReportError(f"{option} {path} is a file; name a folder.")
    _require_folder(path.parent, option, path)


def _require_folder(folder: Path, option: str, path: Path) -> None:
    if not folder.is_dir():
        raise ReportError(f"{option} {path}: there is no folder {folder}; make it first, or name another place.")
