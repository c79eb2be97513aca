"""What the job runs on its first node, in a runner's place: `python -m cluster.gpu_check FOLDER`

Starts the ranks as a runner does, and again for the next measurement when one of them fails or does not end, and for
each precision.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.attempt import rank_environment
from cluster.diagnosis import cause, describe_exit
from cluster.doctor.facts import LaunchFacts
from cluster.doctor.job_folder import JobFolder
from cluster.launchers import launcher
from storage.protocol.attempts import AttemptRequest
from storage.protocol.gpu_check import RANKS, CheckFolder, CheckRequest, LauncherFacts, RanksFacts
from storage.protocol.trial_dir import AttemptDir

_LOOK_S = 0.1
# A supervisor's own steps: ask the launcher, kill, look after what is left.
_ENDS_WITHIN_S = 60.0
# TensorFlow is imported, and a model built, in no less.
_SHORTEST_START_S = 15.0
_TIME_IS_OVER = "the time limit was reached"


@dataclass
class RanksWatch:
    """Decides when ranks that measure have to end, by the clocks of the check. Needs no process.

    Args:
        until_s: End of all measurements, on the clock of `verdict`.
        started_s: When these ranks were started.
    """

    request: CheckRequest
    rendezvous_timeout_s: float
    started_s: float
    until_s: float
    _under_way: str | None = None
    _since_s: float = 0.0

    def verdict(self, now_s: float, under_way: str | None, have_met: bool) -> str:
        """Why the ranks are to end now; empty if they are not.

        Args:
            under_way: The measurement that they have begun.
        """
        if under_way != self._under_way:
            self._under_way, self._since_s = under_way, now_s
        if now_s >= self.until_s:
            return _TIME_IS_OVER
        if not have_met and now_s - self.started_s >= self.rendezvous_timeout_s:
            return f"the ranks have not found one another within {self.rendezvous_timeout_s:g} s"
        if under_way is not None and now_s - self._since_s >= self.request.measurement_limit_s:
            return f"no result within {self.request.measurement_limit_s:g} s"
        return ""


def measure(folder: JobFolder) -> LauncherFacts:
    """Have the ranks take all measurements that there is time for; what they find is in the folder."""
    attempt_request, check = folder.read_request().attempt, CheckFolder(folder.path)
    request, began_s = check.read_request(), time.monotonic()
    until_s, rendezvous_s = began_s + request.limit_s, None
    while True:
        left = check.left(request)
        watch = RanksWatch(request, attempt_request.rendezvous_timeout_s, time.monotonic(), until_s)
        reason, met_s = _run_ranks(check, watch, attempt_request)
        if rendezvous_s is None and met_s is not None:
            rendezvous_s = met_s - began_s
        failed = check.under_way(request.measurements)
        if failed is not None and reason:
            check.write_failure(failed, reason)
        if reason and failed in (None, RANKS):
            return LauncherFacts(rendezvous_s, reason if failed is None and reason != _TIME_IS_OVER else "")
        # Without a step ahead, the ranks have found that no further one is to be taken.
        is_over = check.left(request) in ((), left) or _is_refused(check)
        if is_over or until_s - time.monotonic() < max(_SHORTEST_START_S, check.read_longest_s()):
            return LauncherFacts(rendezvous_s, "")


def _is_refused(check: CheckFolder) -> bool:
    """Whether no trial would be trained by these ranks."""
    facts = check.read(RANKS, RanksFacts)
    return facts is not None and bool(facts.refusal)


def _run_ranks(check: CheckFolder, watch: RanksWatch, request: AttemptRequest) -> tuple[str, float | None]:
    """Start the ranks and see them to their end; gives why they failed, empty if they did not, and when they met."""
    attempt = check.trial.new_attempt()
    launcher(request.launcher_name).prepare()
    supervisor = _launch(check, attempt, request, watch.until_s - time.monotonic())
    why, met_s, names = "", None, watch.request.measurements
    try:
        while supervisor.poll() is None and not why:
            with suppress(subprocess.TimeoutExpired):
                supervisor.wait(_LOOK_S)
            if met_s is None and check.read(RANKS, RanksFacts) is not None:
                met_s = time.monotonic()
            why = watch.verdict(time.monotonic(), check.under_way(names), met_s is not None)
    finally:
        # Its other end closes: the supervisor ends the ranks, wherever they are.
        if supervisor.stdin is not None:
            supervisor.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            supervisor.wait(_ENDS_WITHIN_S)
    exit_code = supervisor.returncode
    if why or exit_code == 0:
        return why, met_s
    note, log = attempt.read_rank_failure(), attempt.log_tail()
    words = note.reason if note is not None else launcher(request.launcher_name).explain(log) or cause(log)
    return words or describe_exit(exit_code if exit_code and exit_code > 0 else 128 - (exit_code or 0)), met_s


def _launch(check: CheckFolder, attempt: AttemptDir, request: AttemptRequest, left_s: float) -> subprocess.Popen:
    program = (
        sys.executable,
        "-m",
        "trainers.gpu_check",
        str(check.path),
        f"--attempt={attempt.number}",
        f"--threads={request.layout.cpus_per_rank}",
        f"--seconds-left={left_s:.0f}",
    )
    ranks = launcher(request.launcher_name).argv(request.layout, program, request.launcher_options)
    with attempt.log_path.open("ab") as output:
        return subprocess.Popen(
            # Nothing to save: no grace time.
            (sys.executable, "-m", "cluster.supervisor", "0", str(attempt.path), *ranks),
            env=rank_environment(request, os.environ),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def main() -> int:
    folder = JobFolder(Path(sys.argv[1]))
    CheckFolder(folder.path).write_launcher(measure(folder))
    folder.write_launch(LaunchFacts(0, ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
