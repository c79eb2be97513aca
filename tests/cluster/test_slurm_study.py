"""A study on a real Slurm of eight nodes: its shape, and what is said of a site that is set up wrongly."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from cluster.sandbox import Sandbox, SandboxShape
from tests.cluster.installed_slurm import needs_slurm
from tests.cluster.slurm_study import REPOSITORY, START_S
from tests.waiting import wait_until

pytestmark = needs_slurm

SANDBOX_CONFIG = "study/configs/sandbox.toml"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.start() as sandbox:
        yield sandbox


def run_py(runs_dir: Path, *options: str) -> tuple[str, ...]:
    program = (sys.executable, "study/run.py", "--config", SANDBOX_CONFIG, "--site", "sandbox")
    return (*program, "--set", f"study.runs_dir={runs_dir}", *options)


def run(sandbox: Sandbox, runs_dir: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        run_py(runs_dir, *options),
        cwd=REPOSITORY,
        env=sandbox.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# 32 TensorFlows start at once, on however few cores there are.
@pytest.mark.timeout(1800)
def test_two_trials_train_at_once_with_16_ranks_on_4_nodes_each(sandbox: Sandbox, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        driver = subprocess.Popen(
            run_py(tmp_path, "--set", "study.name=shape"), cwd=REPOSITORY, env=sandbox.environ, stdout=out, stderr=out
        )
        try:
            # Slurm itself answers late meanwhile.
            steps = wait_until(lambda: two_rank_steps(sandbox), 4 * START_S, pause_s=0.5)
            shapes = [sandbox.run("scontrol", "show", "step", step) for step in steps]
            assert driver.wait(timeout=800) == 0, (tmp_path / "out").read_text()
        finally:
            driver.kill()
            driver.wait()

    assert [re.findall(r"Nodes=(\d+) .*?Tasks=(\d+)", shape, re.DOTALL) for shape in shapes] == [[("4", "16")]] * 2
    assert [re.findall(r"TresPerNode=gres:gpu:(\d+)", shape) for shape in shapes] == [["4"]] * 2
    node_lists = [re.findall(r"NodeList=(\S+)", shape)[0] for shape in shapes]
    assert sorted(node_lists) == ["node[1-4]", "node[5-8]"]
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/shape/study.db")
    trials = optuna.load_study(study_name="shape", storage=storage).get_trials()
    assert [trial.user_attrs["communicator"]["world_size"] for trial in trials] == [16, 16]
    assert [trial.user_attrs["data_plane"] for trial in trials] == ["mpi", "mpi"]
    assert sorted(host for trial in trials for host in trial.user_attrs["hosts"]) == [f"node{n}" for n in range(1, 9)]
    wait_until(lambda: sandbox.run("squeue", "--noheader") == "", 30, pause_s=0.5)


def two_rank_steps(sandbox: Sandbox) -> list[str] | None:
    steps = rank_steps(sandbox)
    return steps if len(steps) == 2 else None


def rank_steps(sandbox: Sandbox) -> list[str]:
    """The steps that are not the batch script itself."""
    steps = sandbox.run("squeue", "--steps", "--noheader", "--format=%i").split()
    return [step for step in steps if not step.endswith(".batch")]


def test_a_dry_run_shows_the_job_and_its_cost_and_submits_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    shown = run(sandbox, tmp_path, "--dry-run", "--jobs", "1")

    assert shown.returncode == 0, shown.stderr
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=4" in shown.stdout
    assert "1 at once, 4 nodes each: 4 nodes" in shown.stdout
    assert "srun --nodes=4 --ntasks=16" in shown.stdout
    assert re.search(r"node-hours\s+│ 4 ", shown.stdout)
    assert list(tmp_path.iterdir()) == []
    assert sandbox.run("squeue", "--noheader") == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("slurm.queue=nowhere", r"the batch system refuses this study's jobs: .*invalid partition specified: nowhere"),
        (
            "gpus_per_node=9",
            r"the batch system refuses this study's jobs: .*Requested node configuration is not available",
        ),
        ("slurm.account=REPLACE-ME", r"site 'sandbox' does not know your slurm.account: give it with --site-set"),
        ("slurm.interface=ib7", r"cannot listen on the network interface 'ib7': .*Set slurm.interface"),
        ("slurm.extra_directives=['--nodes=2']", r"was given 2 nodes, but a trial is laid out for 4"),
        ("slurm.prologue=['echo no such module >&2', 'exit 3']", r"[3-9] jobs in a row ended .* no such module"),
        (
            "launcher_options=['--mpi=nonsense']",
            r"srun could not start any rank, 3 times in a row: .*mpi/nonsense",
        ),
        ("slurm.wall_time='1:00:00'", r"wall_time: .*walltime"),
        ("slurm.walltime='soon'", r"walltime: .*got 'soon'"),
    ],
)
def test_a_wrong_site_is_one_error_in_slurm_s_own_words(
    sandbox: Sandbox, tmp_path: Path, change: str, said: str
) -> None:
    refused = run(sandbox, tmp_path, "--site-set", change, "--set", "study.name=wrong")

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert re.search(said, refused.stderr), refused.stderr
    assert "Traceback" not in refused.stderr
    # A job that had a worker takes a few seconds to end.
    wait_until(lambda: sandbox.run("squeue", "--noheader") == "", 30, pause_s=0.5)


ONLY_PHYSICS = """
function slurm_job_submit(job_desc, part_list, submit_uid)
  return job_desc.account == "physics" and slurm.SUCCESS or slurm.ESLURM_INVALID_ACCOUNT
end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  return slurm.SUCCESS
end
return slurm.SUCCESS
"""


@pytest.fixture
def sandbox_of_physics() -> Iterator[Sandbox]:
    """One that takes jobs of no other account."""
    with Sandbox.start(SandboxShape(nodes=1)) as sandbox:
        conf = sandbox.layout.slurm_conf_path
        (conf.parent / "job_submit.lua").write_text(ONLY_PHYSICS)
        with conf.open("a") as file:
            file.write("JobSubmitPlugins=lua\n")
        sandbox.run("scontrol", "reconfigure")
        yield sandbox


def test_an_account_that_there_is_not_is_one_error_in_slurm_s_own_words(
    sandbox_of_physics: Sandbox, tmp_path: Path
) -> None:
    refused = run(sandbox_of_physics, tmp_path, "--site-set", "slurm.account=phisics")

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "Invalid account or account/partition combination specified. Change [slurm] of site" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_without_slurm_one_error_says_where_to_run(sandbox: Sandbox, tmp_path: Path) -> None:
    refused = run(sandbox, tmp_path, PATH=str(Path(sys.executable).parent))

    assert refused.returncode == 2
    assert "there is no command squeue. Run this on a login node" in refused.stderr
