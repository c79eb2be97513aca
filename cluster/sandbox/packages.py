"""What a sandbox needs from the system, and the names under which Debian has it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cluster.sandbox.layout import Isolation

_PACKAGE_OF_PROGRAM = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client"}

# Slurm's PMIx plugin opens this very file. The name without a version comes with the development package only:
# with libpmix2 alone every srun ends with "can not load PMIx library".
_PMIX_LIBRARY = "lib/*/pmix2/lib/libpmix.so"


class MissingPackagesError(RuntimeError):
    """Programs that a sandbox is made of are not installed."""


def with_sbin(path: str) -> str:
    """`path` with the sbin directory beside each bin: Debian keeps daemons there and leaves it out of users' PATH."""
    bins = [Path(entry) for entry in path.split(os.pathsep) if entry]
    sbins = [entry.with_name("sbin") for entry in bins if entry.name == "bin"]
    return os.pathsep.join(map(str, dict.fromkeys([*bins, *sbins])))


def missing_packages(isolation: Isolation, search_path: str, system_root: Path = Path("/usr")) -> list[str]:
    """Debian's packages, in alphabetical order, whose programs are not on `search_path` or not below `system_root`."""
    programs = dict(_PACKAGE_OF_PROGRAM)
    if isolation is Isolation.NETWORK:
        programs["ip"] = "iproute2"
    missing = {package for program, package in programs.items() if shutil.which(program, path=search_path) is None}
    if not any(system_root.glob(_PMIX_LIBRARY)):
        missing.add("libpmix-dev")
    return sorted(missing)


def require_packages(isolation: Isolation, search_path: str) -> None:
    """Refuse to go on without them.

    Raises:
        MissingPackagesError: Names all that are missing, and the command that installs them.
    """
    missing = missing_packages(isolation, search_path)
    if missing:
        raise MissingPackagesError(
            f"Debian packages that a sandbox needs are not installed, or not in PATH={search_path!r}: "
            f"{', '.join(missing)}. Install them: apt-get install --no-install-recommends {' '.join(missing)}"
        )
