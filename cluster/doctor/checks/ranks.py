"""Whether the launcher starts ranks that find one another, by the right MPI."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.diagnosis import describe_exit
from cluster.doctor.facts import LaunchFacts, SiteFacts
from cluster.doctor.findings import JOB, Verdict, broken, ok
from cluster.profile import SiteProfile


def judge_ranks(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    job = facts.job
    if job is None or not job.nodes:
        return
    wanted = profile.nodes_per_trial * profile.ranks_per_node if profile.slurm else None
    sizes = {rank.world_size for rank in job.ranks}
    if job.launch is None:
        yield broken(f"the job ended before its ranks did: {job.log_tail}", _CURE[profile.launcher], JOB)
    elif job.launch.exit_code != 0:
        yield broken(_describe_failure(job.launch), _CURE[profile.launcher], JOB)
    elif len(sizes) != 1 or (wanted is not None and sizes != {wanted}):
        yield broken(
            f"the ranks did not find one another: {len(job.ranks)} came, in worlds of "
            f"{', '.join(map(str, sorted(sizes))) or 'none'}",
            _CURE[profile.launcher],
            JOB,
        )
    else:
        hosts = {rank.host for rank in job.ranks}
        yield ok(f"{len(job.ranks)} ranks on {len(hosts)} node{'s' * (len(hosts) > 1)} found one another", JOB)


def judge_library(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if facts.job is None or not facts.job.ranks:
        return
    installed = facts.login.packages.get("openmpi", "")
    libraries = sorted({rank.mpi_library for rank in facts.job.ranks})
    if installed and any(installed not in library for library in libraries):
        yield broken(
            f"ranks have loaded {', '.join(libraries)}; Horovod was built with Open MPI {installed}",
            "load no module with an MPI in slurm.prologue, and set no LD_LIBRARY_PATH to one under [environment]",
            JOB,
        )
    elif not all(rank.has_thread_multiple for rank in facts.job.ranks):
        yield broken(
            f"{', '.join(libraries)} allows calls from one thread only",
            "use the environment's own Open MPI: Horovod calls MPI from a thread of its own",
            JOB,
        )
    else:
        yield ok(f"{', '.join(libraries)}, from several threads", JOB)


def _describe_failure(launch: LaunchFacts) -> str:
    if launch.exit_code is None:
        return ": ".join(filter(None, ["the ranks did not end in time", launch.words]))
    return f"{launch.words} ({describe_exit(launch.exit_code)})"


_CURE = {
    "srun": 'set launcher_options to a plugin of `srun --mpi=list`, or launcher = "mpirun" with launcher_options = []',
    "mpirun": "change launcher_options, or set OMPI_MCA_btl_tcp_if_include under [environment] to the network between "
    "nodes",
}
