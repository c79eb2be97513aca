"""Imports go one way, and each library has its place: see docs and [tool.importlinter] in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import PRODUCT, REPOSITORY, imported_names, is_within, python_files

WHO_MAY_IMPORT = {
    # Horovod's and MPI's start-up order matters, so one file has it.
    "horovod": ("trainers/communicator.py",),
    "mpi4py": ("trainers/communicator.py",),
    # TensorFlow holds the GIL long enough to lose a Dask worker, and takes seconds to import.
    "tensorflow": ("trainers/",),
    "keras": ("trainers/",),
    # Compute nodes hold no database driver and no credentials.
    "optuna": ("study/", "storage/"),
    "sqlalchemy": ("study/", "storage/"),
    "psycopg": ("storage/",),
    # The driver and the runners meet in one folder.
    "dask": ("cluster/",),
    "distributed": ("cluster/",),
    "dask_jobqueue": ("cluster/",),
}


def test_the_packages_import_one_another_in_one_direction():
    checked = subprocess.run(
        (Path(sys.executable).with_name("lint-imports"), "--no-cache"), cwd=REPOSITORY, capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("library", WHO_MAY_IMPORT)
def test_a_library_is_imported_only_where_it_belongs(library):
    elsewhere = [
        f"{path}:{line}"
        for path in python_files(*PRODUCT)
        if not path.as_posix().startswith(WHO_MAY_IMPORT[library])
        for name, line in imported_names(path)
        if is_within(name, library)
    ]

    assert not elsewhere, f"{library} is imported outside {' and '.join(WHO_MAY_IMPORT[library])}"


def test_the_ranks_know_of_the_storage_only_the_records_and_the_trial_directory():
    others = [
        f"{path}:{line} {name}"
        for path in python_files("trainers")
        for name, line in imported_names(path)
        if is_within(name, "storage")
        and not is_within(name, "storage.protocol.records")
        and not is_within(name, "storage.protocol.trial_dir")
    ]

    assert not others


@pytest.mark.parametrize("path", ["storage/__init__.py", "storage/records.py", "storage/trial_dir.py"])
def test_what_every_process_imports_needs_the_standard_library_only(path):
    others = [
        f"{path}:{line} {name}"
        for name, line in imported_names(Path(path))
        if name.split(".")[0] not in sys.stdlib_module_names and not is_within(name, "storage.protocol.records")
    ]

    assert not others
