"""What the runner has to know of the job steps before its own."""

from __future__ import annotations

import re
import time

import psutil

_POLL_S = 0.1


def wait_for_earlier_steps(job_id: str, within_s: float) -> bool:
    """Whether the job's earlier steps are gone from this node, or became so in time.

    After a rank was killed, srun returns seconds before Slurm's daemon has taken the step down. Ranks that start
    meanwhile were seen to wait for one another for ever.
    """
    deadline_s = time.monotonic() + within_s
    while _step_daemons(job_id):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _step_daemons(job_id: str) -> list[int]:
    """slurmstepd's processes, by the title that it gives itself; that of the batch script has a word for a number."""
    title = re.compile(rf"slurmstepd: \[{re.escape(job_id)}\.\d+\]")
    processes = psutil.process_iter(["cmdline"])
    return [process.pid for process in processes if title.match(" ".join(process.info["cmdline"] or ()))]
