"""Profile, Python, packages and compilers."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.facts import MachineFacts, SiteFacts
from cluster.doctor.findings import JOB, Verdict, broken, node_place, ok, warning
from cluster.doctor.machine import NEEDED_PACKAGES
from cluster.profile import SiteError, SiteProfile, check_complete

OLDEST_PYTHON, TOO_NEW_PYTHON = (3, 11), (3, 14)


def judge_profile(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    try:
        check_complete(profile)
    except SiteError as error:
        yield broken("a value has still to be filled in", str(error))
    else:
        yield ok(f"site {profile.name!r} is complete")


def judge_login_python(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    yield _python_and_packages(facts.login)


def judge_compilers(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    found = facts.login.compilers
    if "C++" not in found:
        yield warning("no C++ compiler", "`make env` needs one: load a module with GCC, or set CXX")
    elif profile.backend == "nccl" and "CUDA" not in found:
        yield warning("no nvcc", "`make nccl` needs one: load a module with CUDA, or set CUDA_HOME")
    else:
        yield ok(", ".join(f"{kind}: {path}" for kind, path in found.items()))


def judge_cores(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if profile.slurm is not None:
        return
    cores, ranks = facts.login.cpus, profile.ranks_per_node
    if ranks > cores:
        yield warning(f"{ranks} ranks share {cores} cores", f"set ranks_per_node = {cores}")
    else:
        yield ok(f"{cores} cores for {ranks} ranks a trial")


def judge_node_python(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    job = facts.job
    if job is None or not job.has_environment:
        return
    if not job.nodes:
        yield broken(
            f"{facts.login.executable} did not run: {job.log_tail}",
            "keep the environment on a file system that the nodes share, and start the study with its Python",
            JOB,
        )
    for node in job.nodes:
        machine = node.machine
        where = node_place(machine.host)
        verdict = _python_and_packages(machine, where)
        if (machine.python, machine.packages) != (facts.login.python, facts.login.packages):
            verdict = broken(
                f"{verdict.found}; the login node has {_describe(facts.login)}",
                "use one environment on all nodes: slurm.prologue may load a module that shadows it",
                where,
            )
        yield verdict


def _python_and_packages(machine: MachineFacts, where: str = "login node") -> Verdict:
    version = tuple(int(part) for part in machine.python.split(".")[:2])
    if not OLDEST_PYTHON <= version < TOO_NEW_PYTHON:
        return broken(
            f"Python {machine.python} ({machine.executable})",
            "the environment needs Python 3.11 to 3.13: `make env PYTHON=...`",
            where,
        )
    if missing := [name for name in NEEDED_PACKAGES if name not in machine.packages]:
        return broken(
            f"{machine.executable} has no {', '.join(missing)}",
            "set up the environment with `make env`, or `make nccl` for GPUs, and use its Python",
            where,
        )
    return ok(_describe(machine), where)


def _describe(machine: MachineFacts) -> str:
    return f"Python {machine.python}, " + ", ".join(f"{name} {version}" for name, version in machine.packages.items())
