"""Gathers the facts of a site: on this machine, and in one job or, without a batch system, in processes beside."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cluster import private_network
from cluster.attempt import trainer_environment
from cluster.diagnosis import cause
from cluster.doctor.checks import CHECKS
from cluster.doctor.clock_server import serve_clock
from cluster.doctor.facts import FolderFacts, JobFacts, ProbeRequest, SiteFacts
from cluster.doctor.findings import Status, judge
from cluster.doctor.folder import TRIED_BYTES, answer_questions, gather_folder, holding_lock
from cluster.doctor.job_folder import JobFolder
from cluster.doctor.machine import address_of, gather_machine
from cluster.doctor.probe_job import Examination, Limits, run_probe_job
from cluster.profile import SiteProfile, SlurmSettings, available_cores
from storage.protocol.attempts import AttemptRequest

_LOOK_S = 0.1
_PROBE = "cluster.doctor.probe"


def examine(
    site: SiteProfile,
    runs_dir: Path,
    open_batch: Callable[[Path], Examination | None],
    limits: Limits,
    say: Callable[[str], None],
    submit: bool = True,
) -> SiteFacts:
    """Gather all facts; nothing of it is left behind, whatever happens.

    Args:
        runs_dir: Where studies would lie. Made if it is not there, and then removed again.
        open_batch: From the examination's folder to the batch system. Gives None where ranks run on this machine.
        say: Told what is waited for.
        submit: Whether to look at nodes, too.
    """
    machine = gather_machine()
    with ExitStack() as stack:
        try:
            folder = JobFolder(stack.enter_context(scratch_folder(runs_dir, "doctor")))
        except OSError as error:
            failures = {"write": error.strerror or str(error)}
            return SiteFacts(machine, FolderFacts(str(runs_dir), "unknown", 0, failures))
        tried = gather_folder(folder.path, "login", TRIED_BYTES)
        facts = SiteFacts(machine, replace(tried, path=str(runs_dir.resolve())))
        batch = open_batch(folder.path)
        if batch is None:
            facts = replace(facts, has_private_network=private_network.is_available())
        else:
            facts = replace(facts, queue=batch.queue_facts())
        request = ProbeRequest(_attempt_request(site, folder))
        if site.slurm is not None:
            try:
                server = stack.enter_context(serve_clock(_drivers_address(site.slurm)))
                request = replace(request, clock_address=server.address, clock_token=server.token)
            except OSError as error:
                facts = replace(facts, listening_error=error.strerror or str(error))
        if not submit or not _is_worth_a_job(site, facts):
            return facts
        folder.write_request(request)
        stack.enter_context(holding_lock(folder.path))
        job = run_here(folder, _PROBE, limits, say) if batch is None else run_probe_job(folder, batch, limits, say)
        return replace(facts, job=job)


def _is_worth_a_job(site: SiteProfile, facts: SiteFacts) -> bool:
    """Whether a job could start, as far as this machine can tell."""
    needed = {check.name for check in CHECKS if check.stops_job}
    findings = judge(CHECKS, site, facts)
    return not any(finding.check in needed and finding.status is Status.BROKEN for finding in findings)


def _attempt_request(site: SiteProfile, folder: JobFolder) -> AttemptRequest:
    return AttemptRequest(
        trial_dir=folder.path,
        trial_number=0,
        attempt_number=1,
        layout=site.layout(available_cores()),
        launcher_name=site.launcher,
        launcher_options=site.launcher_options,
        environment=site.rank_environment,
    )


def _drivers_address(slurm: SlurmSettings) -> str:
    """Where the driver listens for its runners.

    Raises:
        OSError: Its interface has no address.
    """
    interface = slurm.driver_interface or slurm.interface
    address = address_of(interface)
    if address is None:
        raise OSError(f"the interface {interface!r} is not there or has no IPv4 address")
    return address


@contextmanager
def scratch_folder(runs_dir: Path, purpose: str) -> Iterator[Path]:
    """A folder for an examination, as private as a study's; afterwards all is as it was."""
    made = [folder for folder in (runs_dir, *runs_dir.parents) if not folder.exists()]
    runs_dir.mkdir(parents=True, exist_ok=True)
    folder = runs_dir.resolve() / f"{purpose}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            # Somebody else may have begun a study in it meanwhile.
            with suppress(OSError):
                parent.rmdir()


def run_here(folder: JobFolder, module: str, limits: Limits, say: Callable[[str], None]) -> JobFacts:
    """What a job would do, by processes on this machine.

    Args:
        module: That the job would run on its first node, as `python -m MODULE FOLDER`.
    """
    say(f"starting ranks on this machine; it takes {limits.needed}")
    for sign in (folder.begun, folder.has_environment):
        sign.touch()
    started_s = time.monotonic()
    log = folder.path / "log.txt"
    with log.open("wb") as output:
        probe = subprocess.Popen(
            (sys.executable, "-m", module, str(folder.path)),
            env=trainer_environment(os.environ, ()),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while probe.poll() is None and time.monotonic() - started_s < limits.run_within_s:
            answer_questions(folder.path)
            time.sleep(_LOOK_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(probe.pid, signal.SIGTERM)
        probe.wait()
    return folder.collect(JobFacts(log_tail=cause(log.read_text(errors="replace"))))
