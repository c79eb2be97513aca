"""From a site's profile to the job script that dask-jobqueue writes. Pure: nothing is submitted here.

dask-jobqueue knows jobs of one node. Its header lines can be left out and others added, so the whole header is
written here; its `job_directives_skip` matches any part of a line, and the one part that all lines share is #SBATCH.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.security import Security

from cluster.certificates import TlsFiles
from cluster.profile import SiteProfile, SlurmSettings
from cluster.quiet_dask import QuietScheduler

_ROOT = Path(__file__).resolve().parents[2]

# What a job needs of the driver's environment: who the user is, where programs and modules are.
_PASSED_ON = frozenset(
    (
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "MANPATH",
        "PATH",
        "SHELL",
        "SLURM_CONF",
        "TERM",
        "TZ",
        "USER",
    )
)
_PASSED_ON_PREFIXES = (
    "BASH_FUNC_",
    "CONDA_",
    "CUDA_",
    "EB",
    "LC_",
    "LMOD_",
    "MODULE",
    "NCCL_",
    "__LMOD",
    "_LMOD",
    "_ModuleTable",
)


@dataclass(frozen=True)
class StudyJobs:
    """What is the same for all jobs of a study."""

    study_name: str
    study_dir: Path
    """Absolute; on the file system that driver and compute nodes share."""
    python: str = sys.executable
    root: Path = _ROOT
    """Of this project."""

    @property
    def job_prefix(self) -> str:
        """With which the names of all jobs of the study begin."""
        return f"switchyard-{self.study_name}-"

    @property
    def folder(self) -> Path:
        """Where the jobs run and leave their logs. No other study has it, so it tells whose a job is."""
        return self.study_dir / "jobs"

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(self.study_dir / "tls")


def directives(profile: SiteProfile, slurm: SlurmSettings, jobs: StudyJobs, name: str, nodes: int) -> list[str]:
    """The options of sbatch: the whole allocation of one trial."""
    optional = {"partition": slurm.queue, "account": slurm.account, "mem": slurm.memory_per_node}
    gres = ":".join(["gpu", *([slurm.gpu_type] if slurm.gpu_type else []), str(profile.gpus_per_node)])
    return [
        f"--job-name={name}",
        f"--chdir={shlex.quote(str(jobs.folder))}",
        "--output=%j.log",
        "--open-mode=append",
        # A job that lost a node is replaced by a new one; Slurm's own repetition would find its driver elsewhere.
        "--no-requeue",
        *(f"--{option}={value}" for option, value in optional.items() if value is not None),
        f"--nodes={nodes}",
        f"--ntasks-per-node={profile.ranks_per_node}",
        f"--cpus-per-task={profile.cpus_per_rank}",
        *([f"--gres={gres}"] if profile.gpus_per_node else []),
        f"--time={slurm.walltime}",
        *slurm.extra_directives,
    ]


def job_arguments(profile: SiteProfile, slurm: SlurmSettings, jobs: StudyJobs, name: str, nodes: int) -> dict[str, Any]:
    """Keyword arguments of dask-jobqueue's SLURMJob. All: what is left out, a file in the user's home decides."""
    return {
        # One worker with one thread: one trial at a time in each job.
        "cores": 1,
        "processes": 1,
        "memory": "1 GiB",
        "nanny": False,
        "interface": slurm.interface,
        "protocol": "tls://",
        "death_timeout": slurm.death_timeout_s,
        # A login shell: it is where sites set up their modules.
        "shebang": "#!/bin/bash -l",
        # In the place of the shell: Slurm's SIGTERM ends a shell at once, and some sites lose sight of its children. A
        # worker that is told to close by Slurm and by its scheduler at the same moment never does, and must be killed.
        "python": f"exec {shlex.quote(jobs.python)}",
        "worker_command": "distributed.cli.dask_worker",
        # Ranks are processes of their own, which Dask's limit for its worker must not count.
        "worker_extra_args": [
            "--memory-limit",
            "0",
            "--no-dashboard",
            "--worker-class",
            "cluster.quiet_dask.QuietWorker",
        ],
        "job_name": name,
        "job_directives_skip": ["#SBATCH"],
        "job_extra_directives": directives(profile, slurm, jobs, name, nodes),
        "job_script_prologue": [
            # A module that is not there is one error in the job's log, not a trial that trains with something else.
            "set -e",
            *slurm.prologue,
            "set +e",
            # After the modules, some of which set it to packages that would shadow the pinned ones.
            f"export PYTHONPATH={shlex.quote(str(jobs.root))}",
        ],
    }


def cluster_arguments(profile: SiteProfile, slurm: SlurmSettings, jobs: StudyJobs) -> dict[str, Any]:
    """Keyword arguments of dask-jobqueue's SLURMCluster."""
    return {
        # Of no job: each is submitted with a script of its own.
        **job_arguments(profile, slurm, jobs, jobs.job_prefix, profile.nodes_per_trial),
        "security": jobs.tls.security(),
        "scheduler_cls": QuietScheduler,
        "scheduler_options": {"interface": slurm.driver_interface or slurm.interface, "dashboard": False},
    }


def worker_security(tls: TlsFiles) -> Security:
    """The same for the job script, where paths stand on a command line."""
    key, certificate, authority = (shlex.quote(str(path)) for path in (tls.key, tls.certificate, tls.authority))
    return Security(require_encryption=True, tls_ca_file=authority, tls_worker_key=key, tls_worker_cert=certificate)


def submission_environment(environment: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, str]:
    """What of the driver's environment goes with a job: sbatch keeps all of it, in files on the controller.

    Only what a job needs: passwords and tokens have many names, and what an allocation around the driver says would
    describe the job wrongly.

    Args:
        more: Names that a site adds.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _PASSED_ON or name in more or name.startswith(_PASSED_ON_PREFIXES)
    }
