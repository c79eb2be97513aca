"""What the doctor asks of Slurm: facts on the login node, and a study's job with a probe in the runner's place."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.batch_system import BatchSystemError
from cluster.doctor.facts import NodeGroup, PartitionFacts, QueueFacts
from cluster.doctor.job_folder import JobFolder
from cluster.profile import SiteProfile, SlurmSettings
from cluster.slurm.batch import Slurm, SlurmRefusalError, parse_duration_s, run_command
from cluster.slurm.job import StudyJobs, submission_environment
from cluster.slurm.pool import job_script

# Of the probe; long enough for what it waits for, and short enough to be started between other jobs.
_PROBE_WALLTIME_S = 360
_ANSWERS_WITHIN_S = 30
# A person waits.
_LONGEST_PAUSE_S = 5.0
# Reasons of waiting jobs, after which Slurm does not start them until somebody changes something.
_NEVER = re.compile(
    r"PartitionTimeLimit|PartitionConfig|PartitionNodeLimit|PartitionDown|PartitionInactive|Invalid(?:Account|QOS)|BadConstraints"
    r"|AccountNotAllowed|QOSNotAllowed|Held(?:User|Admin)|JobHeld|Assoc(?:MaxTime|MaxWall)|MaxTimeLimit"
    r"|QOSTimeLimit|ReqNodeNotAvail"
)


@dataclass(frozen=True)
class Probe:
    """What a job runs in a runner's place."""

    purpose: str
    """In the job's name."""
    module: str
    """Run on the first node, as `python -m MODULE FOLDER`."""
    walltime_s: int
    """At the most; the study's own where that is shorter."""


DOCTOR = Probe("doctor", "cluster.doctor.probe", _PROBE_WALLTIME_S)


class SlurmExamination:
    """One examination of a site.

    Args:
        folder: On the shared file system; nobody else uses it.
        python: That the jobs start.
    """

    def __init__(
        self,
        site: SiteProfile,
        slurm: SlurmSettings,
        folder: Path,
        python: str = sys.executable,
        probe: Probe = DOCTOR,
    ) -> None:
        self._site, self._slurm, self._folder, self._probe = site, slurm, folder, probe
        self._jobs = StudyJobs(probe.purpose, folder, python)
        self._environment = submission_environment(os.environ, slurm.pass_environment)

    @property
    def nodes(self) -> int:
        return self._site.nodes_per_trial

    @property
    def job_name(self) -> str:
        return f"{self._jobs.job_prefix}probe"

    @property
    def queue_pause_s(self) -> float:
        return min(self._slurm.squeue_every_s, _LONGEST_PAUSE_S)

    def queue_facts(self) -> QueueFacts:
        try:
            version = run_command("sinfo", "--version").strip()
            partitions = parse_partitions(run_command("scontrol", "show", "partition", "--oneliner"))
            groups = parse_node_groups(run_command("sinfo", "--noheader", "--format=%R|%D|%c|%G|%T"))
        except BatchSystemError as error:
            return QueueFacts(error=str(error))
        return QueueFacts("", version, partitions, groups, parse_mpi_plugins(_mpi_list()), self._refusal())

    def batch_system(self) -> Slurm:
        self._jobs.folder.mkdir(mode=0o700, exist_ok=True)
        return Slurm(
            folder=self._jobs.folder,
            job_prefix=self._jobs.job_prefix,
            script=partial(probe_script, self._site, self._slurm, self._jobs, probe=self._probe),
            environment=self._environment,
            partition=self._slurm.queue,
        )

    def will_never_start(self, words: str) -> bool:
        """Whether a waiting job's state says that waiting is of no use."""
        return _NEVER.search(words) is not None

    def _refusal(self) -> str:
        """Slurm's words, if it would not take a job of a study; nothing is submitted."""
        script = job_script(self._site, self._slurm, self._jobs, self.nodes, self.job_name)
        try:
            run_command("sbatch", "--test-only", stdin=script, environment=self._environment)
        except SlurmRefusalError as error:
            return str(error)
        except BatchSystemError:
            return ""  # It answers late; the job will tell.
        return ""


def probe_script(
    site: SiteProfile, slurm: SlurmSettings, jobs: StudyJobs, name: str, nodes: int, probe: Probe = DOCTOR
) -> str:
    """The script of a study's job, up to the runner; in its place comes the probe. Pure."""
    folder = JobFolder(jobs.study_dir)
    begun, has_environment = (shlex.quote(str(path)) for path in (folder.begun, folder.has_environment))
    hours, minutes = divmod(math.ceil(probe.walltime_s / 60), 60)
    shorter = {
        "walltime": slurm.walltime if slurm.walltime_s <= probe.walltime_s else f"{hours:02d}:{minutes:02d}:00",
        # The first sign may fail: that it is missing is how a folder shows that is not shared. The job then goes on.
        "prologue": (f"touch {begun} || true", *slurm.prologue, f"touch {has_environment}"),
    }
    script = job_script(site, slurm.model_copy(update=shorter), jobs, nodes, name)
    until_runner, _, _ = script.rpartition("exec ")
    return f"{until_runner}exec {shlex.quote(jobs.python)} -m {probe.module} {shlex.quote(str(jobs.study_dir))}\n"


def parse_partitions(printed: str) -> tuple[PartitionFacts, ...]:
    """Out of `scontrol show partition --oneliner`. Pure."""
    return tuple(_partition(dict(re.findall(r"(\w+)=(\S+)", line))) for line in printed.splitlines() if line.strip())


def _partition(values: Mapping[str, str]) -> PartitionFacts:
    accounts = values.get("AllowAccounts", "ALL")
    max_nodes = values.get("MaxNodes", "UNLIMITED")
    return PartitionFacts(
        name=values.get("PartitionName", ""),
        is_default=values.get("Default") == "YES",
        is_up=values.get("State", "UP") == "UP",
        max_walltime_s=parse_duration_s(values.get("MaxTime", "UNLIMITED")),
        max_nodes=float(max_nodes) if max_nodes.isdecimal() else float("inf"),
        accounts=() if accounts == "ALL" else tuple(accounts.split(",")),
    )


def parse_node_groups(printed: str) -> tuple[NodeGroup, ...]:
    """Out of sinfo's partition|nodes|CPUs|gres|state. Pure. What is not a group's line is passed over."""
    groups = []
    for line in printed.splitlines():
        match = re.fullmatch(r"([^|]+)\|(\d+)\|(\d+)\+?\|([^|]*)\|([^|]+)", line.strip())
        if match:
            partition, nodes, cpus, gres, state = match.groups()
            groups.append(NodeGroup(partition, int(nodes), int(cpus), _gpus(gres), state))
    return tuple(groups)


def _gpus(gres: str) -> dict[str, int]:
    """gpu:4, gpu:a100:4(S:0-1), and with commas between several."""
    counts: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([A-Za-z][\w.-]*))?:(\d+)", gres):
        counts[kind] = counts.get(kind, 0) + int(count)
    return counts


def parse_mpi_plugins(printed: str) -> tuple[str, ...]:
    """Out of `srun --mpi=list`, whose form changes with the version. Pure."""
    names: dict[str, None] = {}
    for line in printed.splitlines():
        words = line.removeprefix("srun:").strip()
        if words.endswith("..."):
            continue  # The heading.
        _, _, versions = words.rpartition("available:")
        names |= dict.fromkeys(re.findall(r"[\w.-]+", versions))
    return tuple(names)


def _mpi_list() -> str:
    # Some versions print it as an error.
    try:
        listed = subprocess.run(
            ("srun", "--mpi=list"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_ANSWERS_WITHIN_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listed.stdout
