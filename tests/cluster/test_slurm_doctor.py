"""The doctor on a real Slurm: a healthy site, and what it says when one thing of it is broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.doctor.checks import CHECKS
from cluster.doctor.examination import examine
from cluster.doctor.facts import SiteFacts
from cluster.doctor.findings import Finding, Status, judge
from cluster.doctor.probe_job import Limits
from cluster.profile import load_site
from cluster.sandbox import Isolation, Sandbox, SandboxShape
from cluster.slurm.examination import SlurmExamination
from tests.architecture.sources import REPOSITORY
from tests.cluster.installed_slurm import needs_slurm
from tests.small_disk import mount_small_disk
from tests.waiting import wait_until

pytestmark = [needs_slurm, pytest.mark.timeout(600)]

IS_ROOT = os.geteuid() == 0
WITHIN_S = 300.0
NODES, GPUS, CPUS = 2, 2, 8

SITE = """
launcher = "srun"
nodes_per_trial = {nodes}
ranks_per_node = 1
cpus_per_rank = 1
gpus_per_node = {gpus}
required_backend = "mpi"

[slurm]
queue = "gpu"
walltime = "01:00:00"
interface = "{interface}"
driver_interface = "{driver_interface}"
squeue_every_s = 0.5
"""


@dataclass(frozen=True)
class Site:
    """A sandbox, the profile that is right for it, and a folder for studies."""

    sandbox: Sandbox
    profile: Path
    runs_dir: Path

    def examine(
        self,
        *overrides: str,
        python: str = sys.executable,
        submit: bool = True,
        start_within_s: float = WITHIN_S,
    ) -> list[Finding]:
        """In this process, which has imported what a doctor takes seconds to import."""
        site = load_site(str(self.profile), overrides)
        assert site.slurm is not None
        slurm = site.slurm
        facts: SiteFacts = examine(
            site,
            self.runs_dir,
            lambda folder: SlurmExamination(site, slurm, folder, python),
            Limits(start_within_s, files_seen_within_s=2.0),
            print,
            submit,
        )
        self.require_nothing_left()
        return judge(CHECKS, site, facts)

    def command(self, *options: str) -> tuple[str, ...]:
        """As a person types it."""
        program = (sys.executable, str(REPOSITORY / "study/doctor.py"), "--site", str(self.profile))
        return (*program, "--runs-dir", str(self.runs_dir), *options)

    def require_nothing_left(self) -> None:
        assert self.sandbox.run("squeue", "--noheader", "--name=switchyard-doctor-probe").strip() == ""
        assert not list(self.runs_dir.glob("doctor-*"))

    def hide_on_nodes(self, folder: Path) -> None:
        """Mount an empty file system over it, on the nodes only."""
        for process in self.sandbox.processes():
            if process.name == "slurmd":
                enter = ("nsenter", f"--target={process.pid}", "--mount")
                subprocess.run((*enter, "mount", "-t", "tmpfs", "tmpfs", str(folder)), check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    shape = SandboxShape(nodes=NODES, gpus_per_node=GPUS, cpus_per_node=CPUS)
    with (
        Sandbox.start(shape, isolation=Isolation.NETWORK if IS_ROOT else None) as sandbox,
        pytest.MonkeyPatch.context() as environment,
    ):
        for name, value in sandbox.environ.items():
            environment.setenv(name, value)
        # For jobs of ten minutes, and for physicists.
        sandbox.run("scontrol", "create", "PartitionName=short", "Nodes=ALL", "MaxTime=10", "State=UP")
        sandbox.run("scontrol", "create", "PartitionName=physics", "Nodes=ALL", "AllowAccounts=physics", "State=UP")
        interface, driver_interface = ("eth0", sandbox.layout.bridge) if IS_ROOT else ("lo", "lo")
        profile = folder / "site.toml"
        profile.write_text(SITE.format(nodes=NODES, gpus=GPUS, interface=interface, driver_interface=driver_interface))
        yield Site(sandbox, profile, folder / "runs")


def statuses(findings: list[Finding], status: Status) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if finding.status is status}


def test_a_site_as_its_profile_says_has_nothing_to_mend_and_nothing_is_left_behind(site):
    said = site.runs_dir.parent / "said.json"

    ended = subprocess.run(site.command("--json", str(said)), capture_output=True, text=True, timeout=WITHIN_S)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    findings = json.loads(said.read_text())["findings"]
    assert {finding["status"] for finding in findings} == {"ok"}, findings
    assert {"Python on nodes", "file system", "interface", "driver's port", "clock", "ranks", "MPI library"} <= {
        finding["check"] for finding in findings
    }
    assert "2 ranks on 2 nodes" in ended.stdout
    site.require_nothing_left()
    assert not site.runs_dir.exists()


@dataclass(frozen=True)
class Broken:
    """One thing that is wrong, the check that has to name it, and words of what to do."""

    overrides: tuple[str, ...]
    check: str
    advice: str
    python: str = sys.executable
    needs_root: bool = False
    submit: bool = True
    """Without it, the login node alone tells."""


BROKEN = {
    "a partition that does not exist": Broken(("slurm.queue=nowhere",), "partition", "slurm.queue to one of: gpu"),
    "an account that may not use the partition": Broken(
        ("slurm.queue=physics", "slurm.account=chemistry"), "account", "slurm.account to one of: physics"
    ),
    "an account that nobody has filled in": Broken(("slurm.account=REPLACE-ME",), "profile", "slurm.account=VALUE"),
    "a walltime above the partition's": Broken(
        ("slurm.queue=short", "slurm.walltime='12:00:00'"), "walltime", 'slurm.walltime = "00:10:00"'
    ),
    "more cores than a node has": Broken((f"cpus_per_rank={2 * CPUS}",), "nodes", f"cpus_per_rank = {CPUS}"),
    "more GPUs than a node has": Broken((f"gpus_per_node={GPUS + 1}",), "nodes", f"gpus_per_node = {GPUS}"),
    "more nodes than there are": Broken((f"nodes_per_trial={NODES + 1}",), "nodes", f"nodes_per_trial = {NODES}"),
    "more memory than a node has": Broken(("slurm.memory_per_node=900G",), "submission", "memory_per_node"),
    "an MPI plugin that does not exist": Broken(
        ("launcher_options=['--mpi=pmix_v9']",), "MPI plugin", 'launcher_options = ["--mpi=pmix"]'
    ),
    "an MPI plugin that Open MPI does not know": Broken(
        ("launcher_options=['--mpi=pmi2']",), "MPI plugin", 'launcher_options = ["--mpi=pmix"]', submit=False
    ),
    "a launcher that starts no rank": Broken(("launcher_options=['--no-such-option']",), "ranks", "launcher_options"),
    "an interface that the login node does not have": Broken(
        ("slurm.driver_interface=ib7",),
        "driver's interface",
        "slurm.driver_interface to one of: lo 127.0.0.1",
        submit=False,
    ),
    "an interface that the nodes do not have": Broken(
        ("slurm.interface=ib7",), "interface", "slurm.interface to one of: lo 127.0.0.1"
    ),
    "a driver that the nodes cannot reach": Broken(
        ("slurm.driver_interface=lo",), "driver's port", "slurm.driver_interface", needs_root=True
    ),
    "a module that cannot be loaded": Broken(
        ("slurm.prologue=['module() { echo no module $2 >&2; false; }', 'module load CUDA/99']",),
        "prologue",
        "slurm.prologue",
    ),
    "a Python that the nodes do not have": Broken((), "Python on nodes", "environment", python="/opt/gone/bin/python"),
    "NCCL that is not in the environment": Broken(
        ("required_backend=nccl",), "GPU software", ".venv-nccl/bin/python", submit=False
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_named_with_what_to_change_and_nothing_else_is(site, what):
    case = BROKEN[what]
    if case.needs_root and not IS_ROOT:
        pytest.skip("only root can give the nodes a network of their own")

    broken = statuses(site.examine(*case.overrides, python=case.python, submit=case.submit), Status.BROKEN)

    assert set(broken) == {case.check}, broken
    assert case.advice in broken[case.check].advice


@pytest.mark.skipif(not IS_ROOT, reason="only root can mount something on the nodes")
def test_a_folder_that_the_nodes_do_not_share_is_named(site, tmp_path):
    site.hide_on_nodes(tmp_path)
    elsewhere = Site(site.sandbox, site.profile, tmp_path / "runs")

    broken = statuses(elsewhere.examine(), Status.BROKEN)

    assert set(broken) == {"shared folder"}, broken
    assert "study.runs_dir" in broken["shared folder"].advice


def test_a_full_quota_is_named_and_no_job_is_submitted(site, tmp_path):
    full = Site(site.sandbox, site.profile, tmp_path / "disk/runs")
    (tmp_path / "disk").mkdir()
    with mount_small_disk(tmp_path / "disk") as disk:
        said = ("--json", str(tmp_path / "said.json"))
        ended = subprocess.run((*disk.enter, *full.command(*said)), capture_output=True, text=True, timeout=WITHIN_S)

        assert not (disk.outside_path / "runs").exists()

    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "is submitted" not in ended.stdout
    findings = json.loads((tmp_path / "said.json").read_text())["findings"]
    (broken,) = (finding for finding in findings if finding["status"] == "broken")
    assert broken["check"] == "runs folder"
    assert "No space left on device" in broken["found"]
    assert "study.runs_dir" in broken["advice"]


def test_the_login_node_alone_is_looked_at_where_no_job_is_wanted(site):
    findings = site.examine("slurm.interface=ib7", submit=False)

    assert {finding.where for finding in findings} == {"login node"}
    assert not statuses(findings, Status.BROKEN)


@pytest.fixture
def busy_nodes(site) -> Iterator[None]:
    script = site.runs_dir.parent / "busy.sh"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    options = (f"--nodes={NODES}", "--exclusive", "--output=/dev/null", "--job-name=busy", "--parsable")
    job_id = site.sandbox.run("sbatch", *options, str(script)).strip()
    wait_until(lambda: "RUNNING" in site.sandbox.run("squeue", "--noheader", "--name=busy", "--format=%T"))
    yield
    site.sandbox.run("scancel", job_id)
    wait_until(lambda: not site.sandbox.run("squeue", "--noheader", "--name=busy").strip())


@pytest.mark.usefixtures("busy_nodes")
def test_a_job_that_the_queue_does_not_start_is_a_result_too(site):
    findings = site.examine(start_within_s=1.0)

    assert not statuses(findings, Status.BROKEN)
    (job,) = statuses(findings, Status.WARNING).values()
    assert job.check == "job"
    assert "PENDING (Resources)" in job.found
    assert "--wait" in job.advice
    site.require_nothing_left()


@pytest.mark.usefixtures("busy_nodes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_doctor_takes_its_job_out_of_the_queue(site, number):
    with subprocess.Popen(site.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as doctor:
        jobs = ("squeue", "--noheader", "--name=switchyard-doctor-probe")
        wait_until(lambda: site.sandbox.run(*jobs).strip(), 60)
        doctor.send_signal(number)
        output, _ = doctor.communicate(timeout=WITHIN_S)

    assert doctor.returncode == 128 + number, output
    site.require_nothing_left()
