"""What is submitted and started on each site, as text. `python -m tests.cluster.site_golden` pins it anew."""

from __future__ import annotations

import shlex
from pathlib import Path

from cluster.attempt import rank_command, rank_environment
from cluster.profile import SiteProfile, load_site, site_names
from cluster.slurm.job import StudyJobs
from cluster.slurm.pool import job_script
from storage.protocol.attempts import AttemptRequest

JOBS = StudyJobs("demo", Path("/shared/runs/demo"), python="/opt/env/bin/python", root=Path("/opt/switchyard"))


def golden_path(site: str) -> Path:
    return Path(__file__).with_name("golden") / f"site_{site}.txt"


def rendered(profile: SiteProfile) -> str:
    """The job script, the command of the ranks and what the site adds to their environment."""
    request = AttemptRequest(
        Path("/shared/runs/demo/trials/0007"),
        7,
        2,
        profile.layout(cores=8),
        profile.launcher,
        profile.launcher_options,
        profile.rank_environment,
    )
    argv = tuple(Path(part).name if part.endswith("/python") else part for part in rank_command(request))
    added = {name: value for name, value in rank_environment(request, {}).items() if name not in ("PATH", "PYTHONPATH")}
    script = (
        job_script(profile, profile.slurm, JOBS, profile.nodes_per_trial)
        if profile.slurm
        else "# no job: the ranks run on this machine\n"
    )
    lines = [shlex.join(argv), "", *(f"{name}={value}" for name, value in sorted(added.items()))]
    return script + "\n# the ranks, on the job's first node\n" + "\n".join(lines) + "\n"


def main() -> None:
    for site in site_names():
        golden_path(site).write_text(rendered(load_site(site)))


if __name__ == "__main__":
    main()
