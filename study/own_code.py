"""Code of a person's own that a study trains with: found and read, never imported.

It may import TensorFlow, and the driver must answer in a second.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from storage.protocol.import_path import ImportPath

_ROOT = Path(__file__).resolve().parent.parent


class OwnCodeError(ValueError):
    """A package that a config names is not where packages are looked for."""


@dataclass(frozen=True)
class CodeFolders:
    """Where packages are looked for, in this order and before those that are installed: absolute folders.

    The same for the driver, the preflight and the ranks, on whatever node.
    """

    paths: tuple[Path, ...]

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> CodeFolders:
        """The folder where this process was started, and those of PYTHONPATH."""
        named = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        folders = [Path.cwd(), *(Path(name).expanduser().absolute() for name in named)]
        return cls(tuple(dict.fromkeys(folder for folder in folders if folder != _ROOT)))

    def find(self, path: ImportPath) -> ModuleSpec:
        """The package of an import path, without running any of its code.

        Raises:
            OwnCodeError: It is not there, or no folder can be named to the ranks.
        """
        # This project's own folders come first, as they do for the ranks.
        found = PathFinder.find_spec(path.package, [str(folder) for folder in (_ROOT, *self.paths)])
        if found is None:
            found = _find_installed(path.package)
        if found is None:
            searched = ", ".join(map(str, self.paths or (Path.cwd(),)))
            raise OwnCodeError(
                f"{str(path)!r}: there is no package {path.package!r} in {searched}, and none is installed; start in "
                "the folder that holds it, or put that folder into PYTHONPATH."
            )
        return found

    def file_of(self, path: ImportPath) -> Path | None:
        """The module's source file; None where that cannot be told without running code."""
        found: ModuleSpec | None = self.find(path)
        name = path.package
        for part in path.module.split(".")[1:]:
            if found is None or found.submodule_search_locations is None:
                return None
            name = f"{name}.{part}"
            found = PathFinder.find_spec(name, list(found.submodule_search_locations))
        if found is None or not found.has_location or found.origin is None or not found.origin.endswith(".py"):
            return None
        return Path(found.origin)

    def sha256(self, paths: Iterable[ImportPath]) -> str:
        """Of all source of the packages; of an installed one, its version. Empty if there are none.

        Raises:
            OwnCodeError: One is not there any more.
        """
        packages = {path.package: path for path in paths}
        if not packages:
            return ""
        digest = hashlib.sha256()
        for package, path in sorted(packages.items()):
            digest.update(f"\0{package}\0{_installed_version(package) or ''}".encode())
            if _installed_version(package) is None:
                for file in _sources(self.find(path)):
                    digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
        return digest.hexdigest()


def _find_installed(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    # Of a module that is loaded and has no specification, as __main__.
    except ValueError:
        return None


def _installed_version(package: str) -> str | None:
    """Of a package among the installed ones, whose files do not change; None of one whose source lies elsewhere."""
    spec = _find_installed(package)
    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or ""]
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if not any(place.startswith(f"{folder}{os.sep}") for place in places for folder in installed):
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sources(spec: ModuleSpec) -> list[Path]:
    if spec.submodule_search_locations is not None:
        return sorted(file for folder in spec.submodule_search_locations for file in Path(folder).rglob("*.py"))
    return [Path(spec.origin)] if spec.has_location and spec.origin else []
