"""What the doctor makes of facts: those of a healthy sandbox, recorded, with one of them changed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.batch_system import JobState, QueuedJob
from cluster.doctor.checks import CHECKS
from cluster.doctor.clock_server import ClockServer, ask_clock, serve_clock
from cluster.doctor.energy import gather_energy
from cluster.doctor.facts import (
    FolderFacts,
    GpuFacts,
    LaunchFacts,
    LinkFacts,
    NodeFacts,
    QueueFacts,
    SiteFacts,
)
from cluster.doctor.findings import Finding, Status, judge
from cluster.doctor.folder import holding_lock, is_lock_shared
from cluster.doctor.machine import parse_gpus
from cluster.doctor.probe_job import JobWatch, Limits
from cluster.profile import SiteProfile, SlurmSettings
from cluster.slurm.examination import parse_mpi_plugins, parse_node_groups, parse_partitions, probe_script
from cluster.slurm.job import StudyJobs
from storage.protocol.codec import from_json
from storage.protocol.energy import EnergyReading
from storage.protocol.variables import POWERCAP_DIR
from tests.architecture.sources import REPOSITORY
from tests.small_disk import mount_small_disk

RECORDED = Path(__file__).with_name("recorded") / "sandbox.json"
SLURM = SlurmSettings(queue="gpu", walltime="01:00:00", interface="eth0", driver_interface="bridge0")
PROFILE = SiteProfile(
    name="recorded",
    launcher="srun",
    nodes_per_trial=2,
    ranks_per_node=2,
    cpus_per_rank=1,
    gpus_per_node=2,
    required_backend="mpi",
    slurm=SLURM,
)
A100S = tuple(GpuFacts("NVIDIA A100-SXM4-40GB", f"GPU-{number}", "550.54.15", 40960) for number in range(2))
WITH_NCCL = PROFILE.model_copy(update={"required_backend": "nccl"})

Change = Callable[[SiteFacts], SiteFacts]


@pytest.fixture
def facts() -> SiteFacts:
    return from_json(SiteFacts, RECORDED.read_text())


def of_nodes(change: Callable[[NodeFacts], NodeFacts]) -> Change:
    def changed(facts: SiteFacts) -> SiteFacts:
        assert facts.job is not None
        first, *others = facts.job.nodes
        return replace(facts, job=replace(facts.job, nodes=(change(first), *others)))

    return changed


def of_machine(**values: object) -> Change:
    return of_nodes(lambda node: replace(node, machine=replace(node.machine, **values)))


def of_ranks(**values: object) -> Change:
    def changed(facts: SiteFacts) -> SiteFacts:
        assert facts.job is not None
        return replace(facts, job=replace(facts.job, ranks=tuple(replace(rank, **values) for rank in facts.job.ranks)))

    return changed


def of_job(**values: object) -> Change:
    def changed(facts: SiteFacts) -> SiteFacts:
        assert facts.job is not None
        return replace(facts, job=replace(facts.job, **values))

    return changed


def of_queue(**values: object) -> Change:
    def changed(facts: SiteFacts) -> SiteFacts:
        assert facts.queue is not None
        return replace(facts, queue=replace(facts.queue, **values))

    return changed


def on_gpus(facts: SiteFacts) -> SiteFacts:
    """The same site with GPUs, their driver, and the environment for them."""
    assert facts.job is not None
    nodes = tuple(
        replace(node, machine=replace(node.machine, gpus=A100S, driver_cuda="12.4")) for node in facts.job.nodes
    )
    login = replace(facts.login, tensorflow_cuda="12.3", horovod_has_nccl=True)
    return replace(facts, login=login, job=replace(facts.job, nodes=nodes))


def not_ok(findings: list[Finding]) -> list[tuple[str, str, Status]]:
    return [(found.check, found.where, found.status) for found in findings if found.status is not Status.OK]


def test_a_healthy_site_has_a_line_for_each_check_and_one_for_nodes_that_are_alike(facts):
    findings = judge(CHECKS, PROFILE, facts)

    assert not not_ok(findings)
    assert ("clock", "nodes node1, node2") in [(found.check, found.where) for found in findings]
    assert all(not found.advice for found in findings)


BROKEN, WARNING = Status.BROKEN, Status.WARNING


@pytest.mark.parametrize(
    ("change", "expected", "advice"),
    [
        pytest.param(
            of_nodes(lambda node: replace(node, link=LinkFacts("h:1", "", -7200.0, 0.01))),
            ("clock", "node node1", BROKEN),
            "NTP",
            id="a clock so far behind that the certificate is not valid yet",
        ),
        pytest.param(
            of_nodes(lambda node: replace(node, link=LinkFacts("h:1", "", 7200.0, 0.01))),
            ("clock", "node node1", WARNING),
            "NTP",
            id="a clock that is ahead",
        ),
        pytest.param(
            of_nodes(lambda node: replace(node, link=LinkFacts("h:1", "No route to host"))),
            ("driver's port", "node node1", BROKEN),
            "slurm.driver_interface",
            id="a node that cannot reach the driver",
        ),
        pytest.param(
            of_nodes(lambda node: replace(node, round_trip_s=35.0)),
            ("file system", "node node1", WARNING),
            "actimeo",
            id="attributes that are cached for long",
        ),
        pytest.param(
            of_nodes(lambda node: replace(node, round_trip_s=None)),
            ("file system", "node node1", BROKEN),
            "study.runs_dir",
            id="files that are never seen",
        ),
        pytest.param(
            of_nodes(lambda node: replace(node, is_lock_shared=False)),
            ("file system", "node node1", WARNING),
            "-o flock",
            id="locks of one machine only",
        ),
        pytest.param(
            of_nodes(lambda node: replace(node, folder=FolderFacts("/x", "nfs4", 1, {"rename": "Stale file handle"}))),
            ("file system", "node node1", BROKEN),
            "renames",
            id="renames that fail",
        ),
        pytest.param(
            of_machine(python="3.12.4"),
            ("Python on nodes", "node node1", BROKEN),
            "slurm.prologue",
            id="another Python on a node",
        ),
        pytest.param(
            of_ranks(world_size=1),
            ("ranks", "job", BROKEN),
            "launcher_options",
            id="ranks that are each alone",
        ),
        pytest.param(
            of_job(launch=LaunchFacts(None, "")), ("ranks", "job", BROKEN), "launcher_options", id="ranks that hang"
        ),
        pytest.param(
            of_ranks(mpi_library="Open MPI v4.1.6"),
            ("MPI library", "job", BROKEN),
            "slurm.prologue",
            id="a module's MPI",
        ),
        pytest.param(
            of_ranks(has_thread_multiple=False),
            ("MPI library", "job", BROKEN),
            "own Open MPI",
            id="an MPI for one thread",
        ),
        pytest.param(
            of_queue(mpi_plugins=("none", "pmi2")),
            ("MPI plugin", "login node", BROKEN),
            'launcher = "mpirun"',
            id="a Slurm without PMIx",
        ),
        pytest.param(
            of_queue(mpi_plugins=("none", "pmix", "pmix_v1")),
            ("MPI plugin", "login node", BROKEN),
            'launcher = "mpirun"',
            id="a Slurm with a PMIx that is too old",
        ),
        pytest.param(
            of_job(has_left_queue=False, waits_in_vain=True, state="PENDING (InvalidQOS)", nodes=(), ranks=()),
            ("job", "job", BROKEN),
            "[slurm]",
            id="a job that Slurm will not start",
        ),
    ],
)
def test_one_thing_that_is_wrong_is_said_once_and_with_what_to_do(facts, change, expected, advice):
    findings = judge(CHECKS, PROFILE, change(facts))

    assert not_ok(findings) == [expected]
    (found,) = (found for found in findings if found.status is not Status.OK)
    assert advice in found.advice


def test_an_uncertain_clock_is_not_called_wrong(facts):
    slow = of_nodes(lambda node: replace(node, link=LinkFacts("h:1", "", 4.0, 3.5)))

    assert not not_ok(judge(CHECKS, PROFILE, slow(facts)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda facts: facts, None, id="as it should be"),
        pytest.param(of_machine(driver_cuda="11.8"), ("GPU driver", "node node1", BROKEN), id="too old a driver"),
        pytest.param(of_machine(driver_cuda="12.2"), ("GPU driver", "node node1", WARNING), id="an older driver"),
        pytest.param(of_machine(gpus=A100S[:1]), ("GPUs", "node node1", BROKEN), id="a GPU that is missing"),
        pytest.param(of_machine(gpus=None), ("GPUs", "node node1", BROKEN), id="no driver"),
        pytest.param(
            lambda facts: replace(facts, login=replace(facts.login, horovod_has_nccl=False)),
            ("GPU software", "login node", BROKEN),
            id="the environment without NCCL",
        ),
        # As ParaStation's Slurm deals them out.
        pytest.param(of_ranks(visible_gpus="0"), ("GPUs of ranks", "nodes node1, node2", BROKEN), id="a shared GPU"),
        pytest.param(of_ranks(visible_gpus="0,1"), None, id="all GPUs, by number"),
        # Slurm's cgroups hide all of them from a step that asked for none.
        pytest.param(of_ranks(visible_gpus=""), ("GPUs of ranks", "nodes node1, node2", BROKEN), id="no GPU at all"),
        pytest.param(
            of_ranks(visible_gpus="0,-1"), ("GPUs of ranks", "nodes node1, node2", BROKEN), id="one, and none"
        ),
    ],
)
def test_gpus_and_their_software_are_judged_together(facts, change, expected):
    findings = judge(CHECKS, WITH_NCCL, change(on_gpus(facts)))

    assert not_ok(findings) == ([] if expected is None else [expected])


NO_COUNTER = EnergyReading(missing={"rapl": "the kernel shows no processor"})


@pytest.mark.parametrize(
    ("reading", "kg_co2e_per_kwh", "found", "status"),
    [
        (EnergyReading({"rapl": 0.0, "nvml": 0.0}), 0.4, "rapl+nvml", Status.OK),
        (NO_COUNTER, None, "not measured: rapl: the kernel shows no processor", Status.OK),
        (NO_COUNTER, 0.4, "not measured: rapl: the kernel shows no processor", WARNING),
        (EnergyReading({"nvml": 0.0}, NO_COUNTER.missing), 0.4, "nvml; not measured: rapl: the kernel", Status.OK),
    ],
)
def test_counters_of_energy_are_a_wish_that_a_profile_may_have(facts, reading, kg_co2e_per_kwh, found, status):
    profile = PROFILE.model_copy(update={"kg_co2e_per_kwh": kg_co2e_per_kwh})

    findings = judge(CHECKS, profile, of_nodes(lambda node: replace(node, energy=reading))(facts))

    [finding] = [each for each in findings if each.check == "energy" and each.where == "node node1"]
    assert finding.found.startswith(found)
    assert finding.status is status


def test_a_node_is_asked_for_its_counters_as_the_ranks_ask(tmp_path):
    reading = gather_energy((), {**os.environ, POWERCAP_DIR: str(tmp_path)})

    assert reading.joules == {}
    assert str(tmp_path) in reading.missing["rapl"]


def test_a_program_that_does_not_answer_is_a_counter_that_is_missing():
    reading = gather_energy(A100S, {**os.environ, "PYTHONHOME": "/nowhere"})

    assert set(reading.missing) == {"rapl", "nvml"}
    assert reading.missing["rapl"].startswith("it cannot be asked: ")


@pytest.mark.parametrize(
    ("slurm", "profile", "check", "advice"),
    [
        ({"queue": "short", "walltime": "00:10:01"}, {}, "walltime", '"00:10:00"'),
        ({"gpu_type": "a100"}, {}, "nodes", "leave slurm.gpu_type out"),
        ({}, {"cpus_per_rank": 5}, "nodes", "cpus_per_rank = 4"),
        ({}, {"launcher_options": ("--mpi", "none")}, "MPI plugin", '"--mpi=pmix"'),
        ({"queue": "tiny", "walltime": "00:02:00"}, {"nodes_per_trial": 2}, "nodes", "nodes_per_trial = 1"),
    ],
)
def test_a_profile_that_asks_for_what_the_site_does_not_have_is_told_the_key(facts, slurm, profile, check, advice):
    asked = PROFILE.model_copy(update={"slurm": SLURM.model_copy(update=slurm), **profile})

    broken = {found.check: found for found in judge(CHECKS, asked, facts) if found.status is BROKEN}

    assert set(broken) == {check}
    assert advice in broken[check].advice


def test_without_slurm_on_the_login_node_its_consequences_are_not_listed(facts):
    away = replace(facts, queue=QueueFacts(error="there is no command sinfo"), job=None)

    assert not_ok(judge(CHECKS, PROFILE, away)) == [("batch system", "login node", BROKEN)]


def test_partitions_are_read_as_slurm_prints_them():
    first, second = parse_partitions(
        "PartitionName=batch AllowAccounts=ALL Default=YES MaxNodes=UNLIMITED MaxTime=1-00:00:00 State=UP\n"
        "PartitionName=devel AllowAccounts=physics,maths Default=NO MaxNodes=8 MaxTime=02:00:00 State=DOWN\n"
    )

    assert (first.name, first.is_default, first.is_up, first.max_walltime_s) == ("batch", True, True, 86_400)
    assert (first.max_nodes, first.accounts) == (math.inf, ())
    assert (second.is_default, second.is_up, second.max_walltime_s, second.max_nodes) == (False, False, 7200, 8)
    assert second.accounts == ("physics", "maths")


def test_node_groups_are_read_with_their_gpus_by_type():
    groups = parse_node_groups(
        "gpu|4|128+|gpu:a100:4(S:0-1)|idle\ngpu|2|64|gpu:2,gpu:h100:1|down*\ncpu|9|64|(null)|mixed\nsinfo: a warning\n"
    )

    assert [(group.partition, group.nodes, group.cpus, group.gpus) for group in groups] == [
        ("gpu", 4, 128, {"a100": 4}),
        ("gpu", 2, 64, {"": 2, "h100": 1}),
        ("cpu", 9, 64, {}),
    ]


@pytest.mark.parametrize(
    ("printed", "plugins"),
    [
        (
            "MPI plugin types are...\n\tpmix\n\tnone\nspecific pmix plugin versions available: pmix_v4,pmix_v5\n",
            ("pmix", "none", "pmix_v4", "pmix_v5"),
        ),
        ("srun: MPI types are...\nsrun: pmix_v3\nsrun: none\nsrun: pmi2\n", ("pmix_v3", "none", "pmi2")),
        ("", ()),
    ],
)
def test_mpi_plugins_are_read_as_old_and_new_versions_print_them(printed, plugins):
    assert parse_mpi_plugins(printed) == plugins


def test_gpus_are_read_as_nvidia_smi_prints_them():
    printed = "NVIDIA A100-SXM4-40GB, GPU-5e, 550.54.15, 40960\nGRID, GPU-6f, 550.54.15, [N/A]\nNo devices were found\n"

    assert parse_gpus(printed) == (GpuFacts("NVIDIA A100-SXM4-40GB", "GPU-5e", "550.54.15", 40960),)


def test_the_probe_is_asked_for_as_a_study_s_job_but_for_a_few_minutes():
    slurm = SLURM.model_copy(update={"prologue": ("module load GCC",), "account": "physics"})
    jobs = StudyJobs(
        "doctor", Path("/shared/runs/doctor-1"), python="/opt/env/bin/python", root=Path("/opt/switchyard")
    )

    lines = probe_script(PROFILE, slurm, jobs, "probe", 2).splitlines()

    assert {"#SBATCH --nodes=2", "#SBATCH --gres=gpu:2", "#SBATCH --account=physics"} <= set(lines)
    assert "#SBATCH --time=00:06:00" in lines
    begun, loaded, done = (
        lines.index(next(line for line in lines if part in line)) for part in ("begun", "GCC", "has-")
    )
    assert begun < loaded < done
    assert lines[-1] == "exec /opt/env/bin/python -m cluster.doctor.probe /shared/runs/doctor-1"


def queued(state: JobState, words: str) -> QueuedJob:
    return QueuedJob("7", "probe", state, words, 2, 100.0)


def test_a_job_is_waited_for_until_it_is_too_late_or_of_no_use():
    watch = JobWatch("7", Limits(start_within_s=60, run_within_s=30), lambda words: "QOS" in words, 0.0, 0.0)

    watch.see([queued(JobState.PENDING, "PENDING (Resources)")], 1.0)
    assert not watch.is_waiting_in_vain
    assert not watch.is_too_late(59.0)
    assert watch.is_too_late(61.0)

    watch.see([queued(JobState.RUNNING, "RUNNING")], 50.0)
    assert not watch.is_too_late(79.0)
    assert watch.is_too_late(81.0)
    assert watch.facts().waited_s == 50.0

    # One answer may miss it.
    watch.see([], 51.0)
    assert not watch.is_over
    watch.see([], 52.0)
    assert watch.is_over

    refused = JobWatch("7", Limits(60), lambda words: "QOS" in words, 0.0, 0.0)
    refused.see([queued(JobState.PENDING, "PENDING (InvalidQOS)")], 1.0)
    assert refused.is_waiting_in_vain
    assert refused.facts().waits_in_vain


def test_a_clock_is_told_to_whoever_knows_the_token():
    with serve_clock("127.0.0.1") as server:
        told, refused = ask_clock(server), ask_clock(ClockServer(server.address, "guessed"))
    closed = ask_clock(server)

    assert not told.error
    assert abs(told.clock_ahead_s) <= told.uncertainty_s
    assert refused.error
    assert closed.error == "Connection refused"


def test_a_lock_that_another_process_holds_is_seen(tmp_path):
    asks = (
        f"from pathlib import Path; from cluster.doctor.folder import *; print(is_lock_shared(Path({str(tmp_path)!r})))"
    )
    with holding_lock(tmp_path):
        asked = subprocess.run((sys.executable, "-c", asks), cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert asked.stdout == "True\n"
    assert is_lock_shared(tmp_path) is False


def test_a_full_disk_fails_in_writing_and_keeps_nothing(tmp_path):
    with mount_small_disk(tmp_path) as disk:
        tries = "from pathlib import Path; from cluster.doctor.folder import *; "
        tries += "print(gather_folder(Path('.'), 'x', TRIED_BYTES))"
        command = (*disk.enter, "env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", tries)
        tried = subprocess.run(command, capture_output=True, text=True, check=True)

        assert "'write': 'No space left on device'" in tried.stdout
        assert "tmpfs" in tried.stdout
        assert not list(disk.outside_path.iterdir())


def doctor(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "study/doctor.py", *options), cwd=REPOSITORY, capture_output=True, text=True, timeout=240
    )


def test_one_machine_starts_ranks_and_keeps_no_folder(tmp_path):
    said = tmp_path / "said.json"

    ended = doctor("--runs-dir", str(tmp_path / "deep/runs"), "--json", str(said))

    assert ended.returncode == 0, ended.stdout + ended.stderr
    findings = {found["check"]: found["status"] for found in json.loads(said.read_text())["findings"]}
    assert findings["ranks"] == findings["MPI library"] == findings["file system"] == "ok"
    assert "partition" not in findings
    assert list(tmp_path.iterdir()) == [said]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--site", "nowhere"), "there is no site 'nowhere'"),
        (("--site-set", "ranks=2"), "Valid keys:"),
        (("--json", "/nowhere/said.json"), "/nowhere is not a folder"),
        (("--wait", "soon"), "'soon' is not a number of seconds"),
    ],
)
def test_bad_input_is_one_error_and_exit_code_2(options, words):
    ended = doctor(*options)

    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
