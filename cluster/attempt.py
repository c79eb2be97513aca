"""The runner: one attempt of a trial. Launches the ranks, relays their epochs, tells how they ended.

Runs inside a Dask worker, on the first node of the allocation or in a local slot. Never imports TensorFlow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from cluster.launchers import RankLayout, launcher
from cluster.slurm_step import wait_for_earlier_steps
from storage.records import CommunicatorReport, EpochMetrics, Outcome, TrialResult
from storage.trial_dir import AttemptDir, TrialDir, has_room

# Exit codes of `python -m trainers` that mean something.
_EXIT_BAD_SPEC = 2
_EXIT_SUPERSEDED = 4
_EXIT_DISK_FULL = 5
_EXIT_PEERS_LOST = 14
# Of a launcher or a supervisor that was ended from outside. A supervisor that sent the ranks away says SIGTERM.
_EXIT_INTERRUPTED = {
    128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
}

_POLL_S = 0.25
_STEPS_GONE_WITHIN_S = 30.0


class EndKind(StrEnum):
    """How an attempt ended, as far as its future goes."""

    ENDED = "ended"
    """On purpose: the result says how."""
    BAD_SPEC = "bad spec"
    """The specification cannot be trained; a repetition would end the same."""
    INTERRUPTED = "interrupted"
    """From outside: its allocation, node or runner went away."""
    ABANDONED = "abandoned"
    """Its driver went away first, so nobody saw how it ended."""
    SUPERSEDED = "superseded"
    """A newer attempt took over."""
    NOT_LAUNCHED = "not launched"
    """No rank began: the launcher could not start them."""
    DISK_FULL = "disk full"
    """The ranks could not write; another trial could not either."""
    CRASHED = "crashed"


@dataclass(frozen=True)
class AttemptRequest:
    """What a runner needs to know."""

    trial_dir: Path
    attempt_number: int
    layout: RankLayout
    launcher_name: str
    launcher_options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the worker's own."""
    grace_s: float = 30.0
    """For the ranks to save a checkpoint when they must go."""
    ranks_meet_within_s: float = 600.0
    """Ranks that have not found one another by then never will; they are sent away."""
    deadline_unix_s: float = float("inf")
    """The allocation's end; the ranks are paused early enough to save a checkpoint."""

    @property
    def attempt(self) -> AttemptDir:
        return TrialDir(self.trial_dir).attempt(self.attempt_number)

    @property
    def key(self) -> str:
        """Unique within a study."""
        return f"{self.trial_dir.name}/{self.attempt_number}"


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended, with what a person needs to see why."""

    kind: EndKind
    exit_code: int
    wall_s: float
    result: TrialResult | None = None
    epochs: tuple[EpochMetrics, ...] = ()
    communicator: CommunicatorReport | None = None
    log_tail: str = ""

    @classmethod
    def of_files(
        cls, attempt: AttemptDir, kind: EndKind, exit_code: int = -1, wall_s: float | None = None, reason: str = ""
    ) -> Self:
        """The end of an attempt by what its ranks had written: a result on disk says more than who saw them go.

        Args:
            kind: What it is without a result.
            wall_s: None if nobody measured it; its epochs' then.
            reason: What is known beyond the log.
        """
        result, epochs = attempt.read_result(), tuple(attempt.read_metrics())
        return cls(
            kind=EndKind.ENDED if result else kind,
            exit_code=0 if result and exit_code < 0 else exit_code,
            wall_s=sum(metrics.wall_s for metrics in epochs) if wall_s is None else wall_s,
            result=result,
            epochs=epochs,
            communicator=attempt.read_communicator(),
            log_tail="" if result else "\n".join(filter(None, [attempt.log_tail(), reason])),
        )


def rank_command(request: AttemptRequest) -> tuple[str, ...]:
    """The command that starts the ranks. Pure."""
    program = (
        sys.executable,
        "-m",
        "trainers",
        str(request.trial_dir),
        f"--attempt={request.attempt_number}",
        f"--threads={request.layout.cpus_per_rank}",
    )
    return launcher(request.launcher_name).argv(request.layout, program, request.launcher_options)


def rank_environment(request: AttemptRequest, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of the ranks. Pure."""
    root = str(Path(__file__).resolve().parent.parent)
    # The environment's own mpirun comes first: it belongs to the Open MPI that Horovod was built against.
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {
        # TensorFlow 2.20's oneDNN kernels write beyond their memory: a bare training step of small_resnet with width=8
        # on 120 x 120 pixels ends in "double free" or a segmentation fault. Eigen's take up to twice as long on a CPU.
        "TF_ENABLE_ONEDNN_OPTS": "0",
        **inherited,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, inherited.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(request.layout.cpus_per_rank),
        # Horovod's own thread waits inside MPI, which by default takes a whole core from the training to do so.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # A rank that hangs is found after a minute and ends the attempt, instead of holding its nodes for ever.
        "HOROVOD_STALL_CHECK_TIME_SECONDS": "30",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "60",
        # Open MPI refuses root, which is all that a container has.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **request.environment,
    }


def run_attempt(
    request: AttemptRequest, relay: Callable[[EpochMetrics], None], requested_end: Callable[[], Outcome | None]
) -> AttemptEnd:
    """Run the ranks to their end.

    Args:
        relay: Called with each epoch as it finishes.
        requested_end: What the driver wants: PRUNED ends the ranks at the next epoch boundary, PAUSED at once, after
            a checkpoint.
    """
    attempt, started = request.attempt, time.monotonic()
    if request.launcher_name == "srun":
        wait_for_earlier_steps(os.environ.get("SLURM_JOB_ID", ""), _STEPS_GONE_WITHIN_S)
    with (
        attempt.log_path.open("ab") as log,
        # Leaving the block closes the pipe, at which the supervisor ends the ranks, and waits for it.
        subprocess.Popen(
            [sys.executable, "-m", "cluster.supervisor", str(request.grace_s), *rank_command(request)],
            env=rank_environment(request, os.environ),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C and the closing of a terminal are for the driver to hear, which then pauses its trials.
            start_new_session=True,
        ) as supervisor,
    ):
        _watch(supervisor, request, relay, requested_end)
    exit_code = supervisor.returncode if supervisor.returncode >= 0 else 128 - supervisor.returncode
    # srun tells the highest exit code, which may be that of ranks that only missed the one that failed.
    exit_code = attempt.read_failed_exit_code() or exit_code
    return AttemptEnd.of_files(attempt, _kind_of_end(attempt, exit_code), exit_code, time.monotonic() - started)


def _watch(
    supervisor: subprocess.Popen,
    request: AttemptRequest,
    relay: Callable[[EpochMetrics], None],
    requested_end: Callable[[], Outcome | None],
) -> None:
    attempt, relayed = request.attempt, 0
    met, meet_until_s = False, time.monotonic() + request.ranks_meet_within_s
    pause_at_unix_s = request.deadline_unix_s - request.grace_s
    stop_requested = False
    while True:
        exited = _has_exited(supervisor, _POLL_S)
        for metrics in attempt.read_metrics(skip=relayed):
            relay(metrics)
            relayed += 1
        if exited:
            return
        wanted = requested_end() if time.time() < pause_at_unix_s else Outcome.PAUSED
        if not met:
            met = attempt.read_communicator() is not None
            wanted = wanted if met or time.monotonic() < meet_until_s else Outcome.PAUSED
        if wanted is Outcome.PAUSED and supervisor.stdin is not None:
            # The supervisor then does as if this runner were gone.
            supervisor.stdin.close()
        elif wanted is Outcome.PRUNED and not stop_requested:
            attempt.request_stop(Outcome.PRUNED)
            stop_requested = True


def _has_exited(process: subprocess.Popen, within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kind_of_end(attempt: AttemptDir, exit_code: int) -> EndKind:
    if attempt.read_result() is not None:
        return EndKind.ENDED
    if exit_code == _EXIT_BAD_SPEC:
        return EndKind.BAD_SPEC
    if exit_code == _EXIT_SUPERSEDED:
        return EndKind.SUPERSEDED
    if exit_code in _EXIT_INTERRUPTED:
        return EndKind.INTERRUPTED
    if exit_code == _EXIT_DISK_FULL or not has_room(attempt.path):
        return EndKind.DISK_FULL
    if exit_code == _EXIT_PEERS_LOST:
        return EndKind.INTERRUPTED
    return EndKind.CRASHED if attempt.has_begun else EndKind.NOT_LAUNCHED
