"""The repository's files and what they say, for the rules in this folder."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("study", "trainers", "cluster", "storage")


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that is in git or would be with the next `git add`, relative to the repository."""
    listing = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = (Path(name) for name in listing.split("\0") if name)
    return tuple(sorted(path for path in paths if (REPOSITORY / path).is_file()))


def python_files(*folders: str) -> list[Path]:
    """The Python files under these folders, relative to the repository."""
    return [path for path in repository_files() if path.suffix == ".py" and path.parts[0] in folders]


@cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse((REPOSITORY / path).read_text(), str(path))


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """Every import, those inside functions and `if TYPE_CHECKING` included, as (dotted name, line).

    `from storage import records` and `from storage.protocol.records import Outcome` give storage.protocol.records and
    storage.protocol.records.Outcome. Imports are absolute; ruff sees to that.
    """
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is the package itself or something in it."""
    return name == package or name.startswith(f"{package}.")
