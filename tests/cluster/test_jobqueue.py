"""What is submitted and started on each site, pinned: a change of these files is a change on somebody's cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.profile import load_site, site_names
from cluster.quiet_dask import QuietScheduler
from cluster.slurm.job import cluster_arguments, submission_environment
from cluster.slurm.pool import job_script
from tests.cluster.site_golden import JOBS, golden_path, rendered

SLURM_SITES = [name for name in site_names() if load_site(name).slurm is not None]


@pytest.mark.parametrize("site", site_names())
def test_the_job_and_the_rank_command_of_a_site_are_the_golden_ones(site: str) -> None:
    assert rendered(load_site(site)) == golden_path(site).read_text()


@pytest.mark.parametrize("queue", ["gpu--mem-large", "gpu-n", "--cpus-per-task="])
def test_no_name_makes_a_directive_disappear(queue: str) -> None:
    profile = load_site("sandbox", [f"slurm.queue='{queue}'"])
    assert f"#SBATCH --partition={queue}\n" in job_script(profile, profile.slurm, JOBS, 4)


def test_a_type_of_gpu_is_said_once_and_asked_for_by_the_job() -> None:
    profile = load_site("sandbox", ["slurm.gpu_type='a100'", "gpus_per_node=4"])

    assert "#SBATCH --gres=gpu:a100:4\n" in job_script(profile, profile.slurm, JOBS, 4)


def test_a_folder_with_spaces_arrives_as_one_argument() -> None:
    profile = load_site("sandbox")
    jobs = replace(JOBS, study_dir=Path("/shared/my runs/demo"), root=Path("/opt/my switchyard"))
    script = job_script(profile, profile.slurm, jobs, 4)

    assert "#SBATCH --chdir='/shared/my runs/demo/jobs'" in script
    assert "export PYTHONPATH='/opt/my switchyard'" in script
    assert "--tls-key '/shared/my runs/demo/tls/key.pem'" in script


@pytest.mark.parametrize("site", SLURM_SITES)
def test_dask_listens_with_mutual_tls_and_without_http(site: str) -> None:
    profile = load_site(site)
    arguments = cluster_arguments(profile, profile.slurm, JOBS)

    assert arguments["security"].require_encryption
    assert arguments["scheduler_cls"] is QuietScheduler
    assert "--worker-class cluster.quiet_dask.QuietWorker" in job_script(profile, profile.slurm, JOBS, 4)


@pytest.mark.parametrize("site", SLURM_SITES)
def test_job_scripts_hold_paths_of_keys_only(site: str) -> None:
    profile = load_site(site)
    script = job_script(profile, profile.slurm, JOBS, 4)

    assert "PRIVATE" not in script
    assert "password" not in script.lower()


@pytest.mark.parametrize("site", SLURM_SITES)
def test_a_prologue_that_fails_ends_the_job_before_its_runner_starts(site: str) -> None:
    profile = load_site(site, ["slurm.prologue=['module load GCC']"])
    lines = job_script(profile, profile.slurm, JOBS, 4).splitlines()

    begin, end = lines.index("set -e"), lines.index("set +e")
    assert lines[0] == "#!/bin/bash -l"
    assert lines[begin + 1 : end] == ["module load GCC"]
    assert any(line.startswith("exec ") for line in lines[end:])


def test_each_job_has_a_name_of_its_own_which_its_runner_bears() -> None:
    profile = load_site("sandbox")
    script = job_script(profile, profile.slurm, JOBS, 4, "switchyard-demo-1a2b-7", "tls://10.0.0.1:4000")

    assert "#SBATCH --job-name=switchyard-demo-1a2b-7\n" in script
    assert "tls://10.0.0.1:4000 --name switchyard-demo-1a2b-7 " in script


def test_only_what_a_job_needs_of_the_drivers_environment_goes_with_it() -> None:
    driver = {
        "HOME": "/h",
        "PATH": "/bin",
        "LC_ALL": "C",
        "BASH_FUNC_module%%": "() { :; }",
        "LMOD_CMD": "/lmod",
        "SLURM_CONF": "/etc/slurm.conf",
        "HTTPS_PROXY": "http://proxy",
    }
    left_behind = {
        "SWITCHYARD_STORAGE": "postgresql://db/optuna",
        "SWITCHYARD_STORAGE_PASSWORD": "secret",
        "PGPASSWORD": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "WANDB_API_KEY": "secret",
        "SSH_AUTH_SOCK": "/tmp/ssh",
        "SLURM_JOB_ID": "7",
        "SBATCH_PARTITION": "other",
        "PYTHONPATH": "/theirs",
    }
    passed = submission_environment({**driver, **left_behind}, more=("HTTPS_PROXY",))

    assert passed == driver
    assert "HTTPS_PROXY" not in submission_environment(driver)
