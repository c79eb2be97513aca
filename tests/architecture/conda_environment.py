"""Writes the pins of environment.yml: `python -m tests.architecture.conda_environment`, which `make lock` calls."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.architecture.sources import REPOSITORY

_PINS_FOLLOW = "  - pip:\n"
_NOT_FOR_PIP = "horovod"
"""Kept as a comment: pip would compile it before the TensorFlow that it is compiled against is there."""


def direct_dependencies() -> list[Requirement]:
    """What pyproject.toml asks for by name, the optional extras excepted, in its order."""
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    groups = pyproject["dependency-groups"]
    return [Requirement(text) for text in (*pyproject["project"]["dependencies"], *groups["dev"], *groups["tools"])]


def render(environment: str, locks: str) -> str:
    """The text of environment.yml with its pip section made anew from the text of the locks."""
    kept, _, _ = environment.partition(_PINS_FOLLOW)
    lines = [line for dependency in direct_dependencies() for line in _pins(dependency, locks)]
    return kept + _PINS_FOLLOW + "".join(f"      {line}\n" for line in lines)


def _pins(dependency: Requirement, locks: str) -> list[str]:
    """One line for each version of a dependency: some differ from one Python to another."""
    extras = f"[{','.join(sorted(dependency.extras))}]" if dependency.extras else ""
    locked = re.findall(rf"^{re.escape(dependency.name.lower())}==(\S+) ; (.*) \\$", locks, flags=re.MULTILINE)
    lines = []
    for version, marker in locked:
        # The lock is for Linux only, and so is this file.
        condition = re.sub(r"( and )?sys_platform == 'linux'", "", marker)
        lines.append(f"- {dependency.name}{extras}=={version}" + (f" ; {condition}" if condition else ""))
    return [f"# {line}" for line in lines] if dependency.name == _NOT_FOR_PIP else lines


def locks_text(repository: Path) -> str:
    return (repository / "requirements.lock").read_text() + (repository / "tools.lock").read_text()


if __name__ == "__main__":
    path = REPOSITORY / "environment.yml"
    path.write_text(render(path.read_text(), locks_text(REPOSITORY)))
