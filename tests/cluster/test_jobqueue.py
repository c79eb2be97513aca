"""What is submitted and started on each site, pinned: a change of these files is a change on somebody's cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cluster.jobqueue import cluster_arguments, submission_environment

from cluster.profile import load_site, site_names
from cluster.quiet_dask import QuietScheduler
from cluster.slurm import job_script
from tests.cluster.site_golden import JOBS, golden_path, rendered

SLURM_SITES = [name for name in site_names() if load_site(name).slurm is not None]


@pytest.mark.parametrize("site", site_names())
def test_the_job_and_the_rank_command_of_a_site_are_the_golden_ones(site: str) -> None:
    assert rendered(load_site(site)) == golden_path(site).read_text()


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
