"""Has a site measured: in one job or, without a batch system, by ranks on this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.doctor.examination import run_here, scratch_folder
from cluster.doctor.facts import JobFacts, ProbeRequest
from cluster.doctor.job_folder import JobFolder
from cluster.doctor.probe_job import Examination, Limits, run_probe_job
from storage.protocol.attempts import AttemptRequest
from storage.protocol.gpu_check import CheckFacts, CheckFolder, CheckRequest
from storage.protocol.records import TrialSpec

PURPOSE, MODULE = "gpu-check", "cluster.gpu_check"
STARTS_AND_ENDS_WITHIN_S = 120.0
"""Of a job, beside its measurements."""


@dataclass(frozen=True)
class SiteCheck:
    """What is measured, for which trial, and how its ranks are started.

    Args:
        attempt: As the runner of a study gets it; the folder is another one.
    """

    request: CheckRequest
    spec: TrialSpec
    attempt: AttemptRequest

    def run(
        self,
        runs_dir: Path,
        open_batch: Callable[[Path], Examination | None],
        start_within_s: float,
        say: Callable[[str], None],
    ) -> tuple[JobFacts, CheckFacts]:
        """Measure; nothing of it is left behind, whatever happens.

        Args:
            runs_dir: Where studies would lie. Made if it is not there, and then removed again.
            open_batch: From the check's folder to the batch system. Gives None where ranks run on this machine.
            start_within_s: For the queue to start the job.
            say: Told what is waited for.

        Raises:
            OSError: The folder cannot be written to.
        """
        minutes = self.request.limit_s / 60
        limits = Limits(
            start_within_s=start_within_s,
            run_within_s=self.request.limit_s + STARTS_AND_ENDS_WITHIN_S,
            needed=f"{minutes:.3g} minutes at the most",
        )
        with ExitStack() as stack:
            folder = JobFolder(stack.enter_context(scratch_folder(runs_dir, PURPOSE)))
            check = CheckFolder(folder.path)
            check.trial.create(self.spec)
            check.write_request(self.request)
            folder.write_request(ProbeRequest(replace(self.attempt, trial_dir=folder.path)))
            batch = open_batch(folder.path)
            job = run_here(folder, MODULE, limits, say) if batch is None else run_probe_job(folder, batch, limits, say)
            return job, check.collect(self.request)
