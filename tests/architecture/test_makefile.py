"""Set-up happens once, goes on after an interruption, and says what it lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY

# Stands for Python, for pip and for uv: notes the call and leaves behind what the real one would.
TOOL = """#!/bin/sh
echo "$@" >> calls
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*) cp "$0" "$(dirname "$0")/uv" ;;
    "venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "pip sync "*) exit "${SYNC_EXIT_CODE:-0}" ;;
esac
"""


@dataclass(frozen=True)
class Clone:
    """A clone of the repository on a machine with nothing but make, a C++ compiler and Python."""

    path: Path

    @property
    def bin(self) -> Path:
        return self.path / "bin"

    def add_command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def make_env(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ("make", "env", *arguments),
            cwd=self.path,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
        )

    def calls_in(self, *arguments: str, **environment: str) -> list[str]:
        """What `make env` called, the questions for Python's version left out."""
        calls = self.path / "calls"
        calls.unlink(missing_ok=True)
        self.make_env(*arguments, **environment)
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [" ".join(line.split()[:2]) for line in lines if not line.startswith("-c")]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path)
    clone.bin.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "tools.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("make", "cp", "dirname", "mkdir", "mv", "rm", "touch"):
        (clone.bin / name).symlink_to(shutil.which(name) or pytest.skip(f"{name} is not installed"))
    for name in ("python3", "c++"):
        clone.add_command(name, TOOL)
    return clone


def test_the_first_call_sets_up_and_the_second_does_nothing(clone):
    assert clone.calls_in() == ["-m venv", "-m pip", "venv --quiet", "pip sync"]
    assert clone.calls_in() == []


def test_an_interrupted_installation_goes_on_in_the_next_call(clone):
    assert clone.make_env(SYNC_EXIT_CODE="1").returncode != 0

    assert clone.calls_in() == ["pip sync"]
    assert clone.calls_in() == []


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_changed_pin_is_installed_into_the_environment_that_is_there(clone, changed):
    clone.make_env()
    _make_newer(clone.path / changed, than=clone.path / ".venv/complete")

    assert clone.calls_in() == ["pip sync"]


def test_a_deleted_environment_is_made_again(clone):
    clone.make_env()
    shutil.rmtree(clone.path / ".venv")

    assert clone.calls_in() == ["venv --quiet", "pip sync"]


def test_a_uv_that_is_there_already_can_be_named(clone):
    clone.add_command("uv", TOOL)

    assert clone.calls_in(f"UV={clone.bin / 'uv'}") == ["venv --quiet", "pip sync"]


def test_a_python_that_is_too_old_is_passed_over(clone):
    clone.add_command("python3", "#!/bin/sh\nexit 1\n")
    clone.add_command("python3.12", TOOL)

    assert clone.make_env().returncode == 0


def test_without_a_python_that_will_do_it_says_which_will(clone):
    clone.add_command("python3", "#!/bin/sh\nexit 1\n")

    answer = clone.make_env()

    assert answer.returncode == 2
    assert "error: no Python 3.11, 3.12 or 3.13" in answer.stderr


def test_without_a_compiler_it_says_so_before_it_downloads_anything(clone):
    (clone.bin / "c++").unlink()

    answer = clone.make_env()

    assert answer.returncode == 2
    assert "error: no C++ compiler" in answer.stderr
    assert "-m pip" not in (clone.path / "calls").read_text()


def _make_newer(path: Path, than: Path) -> None:
    later = than.stat().st_mtime + 1
    os.utime(path, (later, later))
