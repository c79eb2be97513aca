"""A study's jobs on Slurm: dask-jobqueue's cluster gives the scheduler and the job script, `JobPool` the rest."""

from __future__ import annotations

import os
import secrets
import signal
from typing import Any

from cluster.batch_system import BatchSystemError
from cluster.certificates import create_certificates
from cluster.dask_link import DaskLink, scheduler_settings
from cluster.job_pool import JobPool, PoolSettings
from cluster.pool import PoolError
from cluster.profile import SiteProfile, SlurmSettings
from cluster.reconcile import Jobs, Limits, Trouble
from cluster.slurm.batch import Slurm
from cluster.slurm.job import StudyJobs, cluster_arguments, job_arguments, submission_environment, worker_security
from storage.protocol.attempts import AttemptRequest
from storage.protocol.clock import SYSTEM_CLOCK
from storage.protocol.trial_dir import AttemptDir, TrialDir

# Importing dask-jobqueue makes Ctrl-C end the process at once, with code 0 and its jobs left behind.
_on_ctrl_c = signal.getsignal(signal.SIGINT)
from dask_jobqueue.slurm import SLURMCluster, SLURMJob  # noqa: E402

signal.signal(signal.SIGINT, _on_ctrl_c)


class StudyCluster(SLURMCluster):
    """dask-jobqueue's cluster, with a TLS configuration for job scripts beside its own."""

    def __init__(self, jobs: StudyJobs, **arguments: Any) -> None:
        self._jobs = jobs
        super().__init__(**arguments)

    def _get_worker_security(self, security: object) -> object:
        return worker_security(self._jobs.tls)


def open_pool(site: SiteProfile, slurm: SlurmSettings, jobs: StudyJobs) -> JobPool:
    """The pool of a study's jobs, with a scheduler that waits for their runners.

    Raises:
        PoolError: Slurm does not answer, or the driver cannot listen where the runners would look for it.
    """
    jobs.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A driver's own names: no job is ever called as one of an earlier driver's.
    prefix = f"{jobs.job_prefix}{secrets.token_hex(2)}-"
    create_certificates(jobs.tls.folder, jobs.study_name)
    with scheduler_settings():
        try:
            cluster = StudyCluster(jobs, **cluster_arguments(site, slurm, jobs))
        except RuntimeError as error:
            raise PoolError(
                f"the driver cannot listen on the network interface {slurm.driver_interface or slurm.interface!r}: "
                f"{error}. Set slurm.interface, or slurm.driver_interface, of site {site.name!r}."
            ) from error
    link = DaskLink(cluster)
    batch = Slurm(
        folder=jobs.folder,
        job_prefix=jobs.job_prefix,
        script=lambda name, nodes: job_script(site, slurm, jobs, nodes, name, link.address()),
        environment=submission_environment(os.environ, slurm.pass_environment),
        partition=slurm.queue,
    )
    try:
        batch.queue()
    except BatchSystemError as error:
        link.close()
        raise PoolError(
            f"Slurm does not answer: {error}. Run this on a login node of the cluster, or, for a sandbox, "
            "in a shell that has evaluated what `python -m cluster.sandbox status` prints first."
        ) from error
    limits = Limits(pending_notice_s=slurm.pending_notice_s)
    advice = {
        Trouble.REFUSED: f"Change [slurm] of site {site.name!r}; --dry-run shows the job script.",
        Trouble.OTHER_SHAPE: f"Check slurm.extra_directives of site {site.name!r}, and what SBATCH_ variables and the "
        "site's submit plugin add.",
        Trouble.NO_RUNNER: f"Check that compute nodes reach that address (slurm.interface={slurm.interface!r}) and see "
        f"{jobs.folder}.",
    }
    settings = PoolSettings(limits, float(slurm.walltime_s), slurm.squeue_every_s, advice)
    return JobPool(batch, link, Jobs(prefix), settings, SYSTEM_CLOCK, attempt_dir)


def attempt_dir(request: AttemptRequest) -> AttemptDir:
    return TrialDir(request.trial_dir).attempt(request.attempt_number)


def job_script(
    site: SiteProfile,
    slurm: SlurmSettings,
    jobs: StudyJobs,
    nodes: int,
    name: str | None = None,
    scheduler_address: str = "tls://DRIVER:PORT",
) -> str:
    """The script that is submitted; without a run, words stand for what only a run knows."""
    name = name or f"{jobs.job_prefix}NUMBER"
    arguments = job_arguments(site, slurm, jobs, name, nodes) | {"security": worker_security(jobs.tls)}
    return SLURMJob(scheduler_address, name=name, **arguments).job_script()
