"""How far the job came."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.facts import SiteFacts
from cluster.doctor.findings import JOB, Verdict, broken, ok, warning
from cluster.profile import SiteProfile


def judge_start(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    job = facts.job
    if job is None or profile.slurm is None:
        return
    if job.refused:
        yield broken(
            job.refused, "change what it names under [slurm]; `study/run.py --dry-run` shows the job script", JOB
        )
    elif job.waits_in_vain:
        yield broken(
            f"it will not be started: {job.state}", "change what Slurm names under [slurm], or ask the site", JOB
        )
    elif not job.has_left_queue:
        yield warning(
            f"not started within {job.waited_s:.0f} s: {job.state or 'not seen in the queue'}; no node was looked at",
            "try again with a longer --wait, or with a slurm.queue for short jobs",
            JOB,
        )
    else:
        yield ok(f"started after {job.waited_s:.0f} s", JOB)


def judge_shared_folder(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    job = facts.job
    if job is None or profile.slurm is None or not job.has_left_queue:
        return
    if job.has_begun:
        yield ok("what the job wrote is seen on the login node", JOB)
    else:
        yield broken(
            f"the job ran ({job.state or 'its state is not known'}) and has left nothing in {facts.folder.path}",
            "set study.runs_dir to a folder that nodes see under the same path and may write to",
            JOB,
        )


def judge_prologue(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    job = facts.job
    if job is None or profile.slurm is None or not job.has_begun:
        return
    if job.has_environment:
        yield ok(f"its {len(profile.slurm.prologue)} lines succeed", JOB)
    else:
        yield broken(
            f"a line of it fails: {job.log_tail}",
            "change slurm.prologue: `module spider NAME` shows what there is",
            JOB,
        )
