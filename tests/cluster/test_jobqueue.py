"""What is submitted and started on each site, pinned: a change of these files is a change on somebody's cluster."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.attempt import AttemptRequest, rank_command, rank_environment
from cluster.jobqueue import StudyJobs, cluster_arguments, submission_environment
from cluster.profile import SiteProfile, load_site, site_names
from cluster.quiet_dask import QuietScheduler
from cluster.slurm import job_script

GOLDEN = Path(__file__).with_name("golden")
JOBS = StudyJobs("demo", Path("/shared/runs/demo"), python="/opt/env/bin/python", root=Path("/opt/switchyard"))
SLURM_SITES = [name for name in site_names() if load_site(name).slurm is not None]


def rendered(profile: SiteProfile) -> str:
    """The job script, the command of the ranks and what the site adds to their environment."""
    request = AttemptRequest(
        Path("/shared/runs/demo/trials/0007"),
        2,
        profile.layout(cores=8),
        profile.launcher,
        profile.launcher_options,
        profile.rank_environment,
    )
    argv = tuple(Path(part).name if part.endswith("/python") else part for part in rank_command(request))
    added = {name: value for name, value in rank_environment(request, {}).items() if name not in ("PATH", "PYTHONPATH")}
    script = job_script(profile, profile.slurm, JOBS) if profile.slurm else "# no job: the ranks run on this machine\n"
    lines = [shlex.join(argv), "", *(f"{name}={value}" for name, value in sorted(added.items()))]
    return script + "\n# the ranks, on the job's first node\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize("site", site_names())
def test_the_job_and_the_rank_command_of_a_site_are_the_golden_ones(site: str) -> None:
    golden = GOLDEN / f"site_{site}.txt"
    assert rendered(load_site(site)) == golden.read_text()


@pytest.mark.parametrize("queue", ["gpu--mem-large", "gpu-n", "--cpus-per-task="])
def test_no_name_makes_a_directive_disappear(queue: str) -> None:
    profile = load_site("sandbox", [f"slurm.queue='{queue}'"])
    assert f"#SBATCH --partition={queue}\n" in job_script(profile, profile.slurm, JOBS)


def test_a_folder_with_spaces_arrives_as_one_argument() -> None:
    profile = load_site("sandbox")
    jobs = replace(JOBS, study_dir=Path("/shared/my runs/demo"), root=Path("/opt/my switchyard"))
    script = job_script(profile, profile.slurm, jobs)

    assert "#SBATCH --chdir='/shared/my runs/demo/jobs'" in script
    assert "export PYTHONPATH='/opt/my switchyard'" in script
    assert "--tls-key '/shared/my runs/demo/tls/key.pem'" in script


@pytest.mark.parametrize("site", SLURM_SITES)
def test_dask_listens_with_mutual_tls_and_without_http(site: str) -> None:
    profile = load_site(site)
    arguments = cluster_arguments(profile, profile.slurm, JOBS)

    assert arguments["security"].require_encryption
    assert arguments["scheduler_cls"] is QuietScheduler
    assert "--worker-class cluster.quiet_dask.QuietWorker" in job_script(profile, profile.slurm, JOBS)


@pytest.mark.parametrize("site", SLURM_SITES)
def test_job_scripts_hold_paths_of_keys_only(site: str) -> None:
    profile = load_site(site)
    script = job_script(profile, profile.slurm, JOBS)

    assert "PRIVATE" not in script
    assert "password" not in script.lower()


def test_passwords_and_the_surrounding_allocation_do_not_go_with_a_job() -> None:
    driver = {
        "HOME": "/h",
        "SLURM_CONF": "/etc/slurm.conf",
        "SWITCHYARD_STORAGE": "postgresql://db/optuna",
        "SWITCHYARD_STORAGE_PASSWORD": "secret",
        "PGPASSWORD": "secret",
        "SLURM_JOB_ID": "7",
        "SBATCH_PARTITION": "other",
    }
    assert submission_environment(driver) == {"HOME": "/h", "SLURM_CONF": "/etc/slurm.conf"}
