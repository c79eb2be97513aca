"""Every dependency is pinned, once, and alike for pip and for conda."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture import conda_environment
from tests.architecture.sources import REPOSITORY

LOCKS = ("requirements.lock", "tools.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_of_a_lock_has_one_version_and_a_hash(lock):
    entries = re.split(r"\n(?! )", (REPOSITORY / lock).read_text().strip())

    unpinned = [entry for entry in entries if not re.match(r"\S+==\S+ ; .*\\\n    --hash=sha256:[0-9a-f]{64}", entry)]
    assert entries
    assert not unpinned


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_says_nothing_of_where_packages_come_from(lock):
    assert not re.search(r"://|@|--(?!hash=)", (REPOSITORY / lock).read_text())


def test_conda_installs_the_locked_version_of_every_direct_dependency():
    locked = _versions((REPOSITORY / lock).read_text() for lock in LOCKS)
    # Horovod is there as a comment, because pip cannot compile it in one go with TensorFlow.
    for_conda = _versions([(REPOSITORY / "environment.yml").read_text().replace("# - horovod==", "- horovod==")])

    direct = {canonicalize_name(dependency.name) for dependency in conda_environment.direct_dependencies()}
    assert for_conda == {name: locked[name] for name in direct}


def test_environment_yml_is_as_make_lock_writes_it():
    text = (REPOSITORY / "environment.yml").read_text()

    assert text == conda_environment.render(text, conda_environment.locks_text(REPOSITORY)), "run `make lock`"


def test_pip_understands_the_pins_of_environment_yml():
    sections = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    [pins] = [section["pip"] for section in sections if isinstance(section, dict)]

    assert all(len(Requirement(pin).specifier) == 1 for pin in pins)


def test_make_and_conda_take_the_pythons_that_pyproject_allows():
    requires = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]

    assert requires == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in (REPOSITORY / "Makefile").read_text()
    assert f"- python {requires}" in (REPOSITORY / "environment.yml").read_text()


def _versions(texts) -> dict[str, set[str]]:
    """From a distribution's name to its versions; more than one where they differ between Pythons."""
    versions: dict[str, set[str]] = {}
    for text in texts:
        for name, version in re.findall(r"^ *(?:- )?([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", text, flags=re.MULTILINE):
            versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions
