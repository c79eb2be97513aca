"""Imports go one way, and each library has its place: see docs and [tool.importlinter] in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import PRODUCT, REPOSITORY, imported_names, is_within, python_files

WHO_MAY_IMPORT = {
    # Horovod's and MPI's start-up order matters, so one file has it.
    "horovod": ("trainers/communicator.py",),
    # The doctor's ranks have no Horovod.
    "mpi4py": ("trainers/communicator.py", "cluster/doctor/probe_rank.py"),
    # TensorFlow holds the GIL long enough to lose a Dask worker, and takes seconds to import.
    "tensorflow": ("trainers/",),
    "keras": ("trainers/",),
    # Compute nodes hold no database driver and no credentials.
    "optuna": ("study/", "storage/"),
    "sqlalchemy": ("study/", "storage/"),
    "psycopg": ("storage/",),
    # An optional extra that takes seconds to import, and starts processes.
    "perun": ("trainers/energy/sensors.py",),
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


PROTOCOL = "storage.protocol"


@pytest.mark.parametrize(("folder", "path"), [("trainers", None), ("cluster", None), ("cluster", "supervisor.py")])
def test_ranks_and_runners_know_of_the_storage_only_the_protocol(folder, path):
    others = [
        f"{file}:{line} {name}"
        for file in python_files(folder)
        for name, line in imported_names(file)
        if is_within(name, "storage") and not is_within(name, PROTOCOL)
    ]

    assert not others


def test_what_every_process_imports_needs_the_standard_library_only():
    files = [path for path in python_files("storage") if path.is_relative_to("storage/protocol")]
    others = [
        f"{path}:{line} {name}"
        for path in [Path("storage/__init__.py"), *files]
        for name, line in imported_names(path)
        if name.split(".")[0] not in sys.stdlib_module_names and not is_within(name, PROTOCOL)
    ]

    assert len(files) > 5
    assert not others


def test_slurm_is_known_in_its_own_folder_and_to_launchers_only():
    who_may = ("cluster/slurm/", "cluster/launchers.py", "study/driver.py", "study/doctor.py", "study/gpu_check.py")
    others = [
        f"{path}:{line} {name}"
        for path in python_files(*PRODUCT)
        if not path.as_posix().startswith(who_may)
        for name, line in imported_names(path)
        if is_within(name, "cluster.slurm")
    ]

    assert not others


@pytest.mark.parametrize("word", ["squeue", "sbatch", "scancel", "SLURM_"])
def test_words_of_slurm_stay_in_its_own_folder(word):
    # Launchers start ranks with srun; the sandbox is a Slurm; a profile's docstrings say what its values become.
    may = ("cluster/slurm/", "cluster/sandbox/", "cluster/launchers.py", "cluster/profile.py")
    said = [
        path.as_posix()
        for path in python_files("cluster", "study")
        if not path.as_posix().startswith(may) and word in _code_of(path)
    ]

    assert not said


def _code_of(path: Path) -> str:
    """A file's strings and names, without comments and docstrings."""
    tree = ast.parse((REPOSITORY / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.unparse(tree)
