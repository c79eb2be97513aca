"""The runner: one attempt of a trial after another. Launches ranks or sends those that stayed, relays their epochs,
tells how they ended.

Runs inside a Dask worker, on the first node of the allocation, or in a thread of the driver. Never imports TensorFlow.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster import diagnosis
from cluster.launchers import launcher
from storage.protocol.attempts import AttemptEnd, AttemptRequest, EndRecord, Failure
from storage.protocol.files import has_space, is_disk_full, is_transient
from storage.protocol.records import EpochMetrics, Outcome
from storage.protocol.trial_dir import AttemptDir, MetricsReader, TrialDir

log = logging.getLogger(__name__)

_POLL_S = 0.25
_SUPERVISOR = (sys.executable, "-m", "cluster.supervisor")
# Ranks that stay look for another attempt twice a second.
_TAKEN_WITHIN_S = 10.0
_LOOK_S = 0.02
# A supervisor's own steps after the grace time, generously: ask the launcher, kill, look after what is left.
_SUPERVISOR_ENDS_WITHIN_S = 90.0


class StopSignal:
    """What an attempt is asked for while it runs. Any thread may ask."""

    def __init__(self) -> None:
        self._requested: Outcome | None = None
        self._changed = threading.Event()
        self.is_urgent = False

    def request(self, outcome: Outcome) -> None:
        """PRUNED and HELD end the trial at an epoch; PAUSED, the stronger one, at once, and its ranks leave."""
        if self._requested is not Outcome.PAUSED:
            self._requested = outcome
        self._changed.set()

    def hurry(self) -> None:
        """Pause, without waiting for a checkpoint."""
        self.is_urgent = True
        self.request(Outcome.PAUSED)

    @property
    def requested(self) -> Outcome | None:
        return self._requested

    def wait(self, timeout_s: float) -> None:
        """Until something new is asked, at most this long."""
        self._changed.wait(timeout_s)
        self._changed.clear()


@dataclass
class AttemptWatch:
    """Decides when a running attempt has to end, by what is asked of it and by its clocks. Needs no network.

    Args:
        started_s: When it began, on the clock of `verdict`.
    """

    request: AttemptRequest
    started_s: float
    _heartbeat: float | None = None
    _has_met: bool = False
    _alive_s: float | None = None

    def verdict(
        self, now_s: float, requested: Outcome | None, has_met: bool, heartbeat: float | None
    ) -> tuple[Outcome | None, str]:
        """What the ranks are to do now, None to go on, and why.

        Args:
            has_met: Whether the ranks have found one another.
            heartbeat: The ranks' last sign of life, whatever it says.
        """
        request, lasted_s = self.request, now_s - self.started_s
        if has_met and (not self._has_met or heartbeat != self._heartbeat or self._alive_s is None):
            self._has_met, self._heartbeat, self._alive_s = True, heartbeat, now_s
        if lasted_s >= request.time_left_s - request.grace_s:
            return Outcome.PAUSED, f"the allocation ends in {max(0.0, request.time_left_s - lasted_s):.0f} s"
        if not self._has_met and lasted_s >= request.rendezvous_timeout_s:
            return Outcome.PAUSED, f"the ranks have not found one another within {request.rendezvous_timeout_s:g} s"
        if self._alive_s is not None and now_s - self._alive_s >= request.heartbeat_timeout_s:
            return Outcome.PAUSED, f"the ranks have shown no sign of life for {request.heartbeat_timeout_s:g} s"
        return requested, "the driver asked for it" if requested else ""


def rank_command(request: AttemptRequest) -> tuple[str, ...]:
    """The command that starts the ranks. Pure."""
    program = (
        sys.executable,
        "-m",
        "trainers",
        str(request.trial_dir),
        f"--attempt={request.attempt_number}",
        f"--threads={request.layout.cpus_per_rank}",
        *(["--stay"] if request.ranks_stay else []),
    )
    return launcher(request.launcher_name).argv(request.layout, program, request.launcher_options)


def rank_environment(request: AttemptRequest, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of the ranks. Pure."""
    # The environment's own mpirun comes first: it belongs to the Open MPI that Horovod was built against.
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {
        **inherited,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(request.layout.cpus_per_rank),
        # Horovod's own thread waits inside MPI, which by default takes a whole core from the training to do so.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # A rank that does not join a collective is found and ends the attempt, instead of holding its nodes for ever:
        # before the ranks' own watchdog, and later than a file system that pauses for a minute or two in a checkpoint.
        "HOROVOD_STALL_CHECK_TIME_SECONDS": "60",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "240",
        # Open MPI refuses root, which is all that a container has.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **request.environment,
        **_import_environment({**inherited, **request.environment}, request.code_folders),
    }


def trainer_environment(inherited: Mapping[str, str], code_folders: Sequence[Path]) -> dict[str, str]:
    """The environment of a process that imports what the ranks import and is none. Pure."""
    return {**inherited, **_import_environment({}, code_folders)}


def _import_environment(inherited: Mapping[str, str], code_folders: Sequence[Path]) -> dict[str, str]:
    """Where Python looks for modules: in this project, then in a person's own folders."""
    root = str(Path(__file__).resolve().parent.parent)
    folders = [root, *map(str, code_folders), inherited.get("PYTHONPATH", "")]
    # `python -m` would otherwise look first of all in the folder where the driver was started, in which somebody's own
    # storage/ or trainers/ may lie.
    return {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONSAFEPATH": "1"}


_OF_RANKS = (
    "layout",
    "launcher_name",
    "launcher_options",
    "environment",
    "grace_s",
    "code_folders",
    # What has been imported stays as it was.
    "code_sha256",
)


def may_share_ranks(earlier: AttemptRequest, later: AttemptRequest) -> bool:
    """Whether ranks that were started or sent for one attempt would have been started alike for the other. Pure."""
    return later.ranks_stay and all(getattr(earlier, name) == getattr(later, name) for name in _OF_RANKS)


class Runner:
    """Runs attempts one after another. Ranks that stayed after one are there for the next."""

    def __init__(self) -> None:
        self._staying: _StayingRanks | None = None

    def run(self, request: AttemptRequest, relay: Callable[[EpochMetrics], None], stop: StopSignal) -> AttemptEnd:
        """Run the ranks to their result or their end. Whatever happens, the attempt's end comes back, and says why.

        Args:
            relay: Called with each epoch as it finishes. Nothing depends on it: the epochs are on disk.
        """
        attempt, started_s = TrialDir(request.trial_dir).attempt(request.attempt_number), time.monotonic()
        try:
            exit_code, why = self._run_ranks(request, attempt, relay, stop)
            record = _end_record(request, attempt, exit_code, why, time.monotonic() - started_s)
        # Whatever it is: an attempt without an end would leave its trial waiting for ever.
        except Exception as error:
            log.exception("attempt %s: the runner failed", request.key)
            record = EndRecord(_failure_of_runner(error), _runner_words(error), None, time.monotonic() - started_s)
        with suppress(OSError):
            attempt.write_end(record)
        return _end(attempt, record)

    def dismiss(self) -> None:
        """Send ranks that stayed away, without waiting for their end."""
        if self._staying is not None:
            _close(self._staying.supervisor)

    def close(self) -> bool:
        """Leave no rank behind; whether all are gone. Not while an attempt runs."""
        staying, self._staying = self._staying, None
        return staying is None or _end_supervisor(staying.supervisor, staying.request.grace_s)

    def _run_ranks(
        self, request: AttemptRequest, attempt: AttemptDir, relay: Callable[[EpochMetrics], None], stop: StopSignal
    ) -> tuple[int, str]:
        """The exit code of the launcher, and why the ranks were told to end; empty if they were not."""
        oom_before = diagnosis.count_oom_kills()
        supervisor = self._send_staying_ranks(request, attempt) or _launch(request, attempt)
        try:
            why = _watch(supervisor, request, attempt, relay, stop)
            if not why and _has_ranks_that_stay(request, attempt) and supervisor.poll() is None:
                self._staying = _StayingRanks(supervisor, request)
                return 0, ""
        finally:
            ended = self._staying is not None or _end_supervisor(supervisor, request.grace_s)
        if not ended:
            return 128 + 9, "the ranks cannot be killed; their node waits for a device or a file system"
        exit_code = supervisor.returncode if supervisor.returncode >= 0 else 128 - supervisor.returncode
        if diagnosis.may_be_out_of_memory(exit_code):
            why = diagnosis.count_oom_kills().reason_since(oom_before) or why
        return exit_code, why

    def _send_staying_ranks(self, request: AttemptRequest, attempt: AttemptDir) -> subprocess.Popen | None:
        """The supervisor of ranks that have taken the attempt; None if there are none, or they are not fit for it."""
        staying, self._staying = self._staying, None
        if staying is None:
            return None
        if may_share_ranks(staying.request, request) and staying.take(attempt):
            return staying.supervisor
        _end_supervisor(staying.supervisor, staying.request.grace_s)
        return None


def run_attempt(request: AttemptRequest, relay: Callable[[EpochMetrics], None], stop: StopSignal) -> AttemptEnd:
    """As `Runner.run`, and no rank stays."""
    runner = Runner()
    try:
        return runner.run(request, relay, stop)
    finally:
        runner.close()


@dataclass(frozen=True)
class _StayingRanks:
    """Ranks that have come to a result and wait.

    Args:
        request: The last one that they were started or sent for.
    """

    supervisor: subprocess.Popen
    request: AttemptRequest

    def take(self, attempt: AttemptDir) -> bool:
        """Send them to an attempt; whether they have gone there. Else they may have died or hung since."""
        until_s = time.monotonic() + _TAKEN_WITHIN_S
        if self.supervisor.stdin is None:
            return False
        with suppress(OSError):
            self.supervisor.stdin.write(os.fsencode(attempt.path) + b"\n")
            self.supervisor.stdin.flush()
            while not attempt.has_begun:
                if _has_exited(self.supervisor, _LOOK_S) or time.monotonic() >= until_s:
                    return False
            return True
        return False


def _has_ranks_that_stay(request: AttemptRequest, attempt: AttemptDir) -> bool:
    """Whether the ranks of a running attempt have come to a result and wait for another one."""
    if not request.ranks_stay:
        return False
    result = attempt.read_result()
    return result is not None and result.outcome is not Outcome.PAUSED


def _launch(request: AttemptRequest, attempt: AttemptDir) -> subprocess.Popen:
    """Start a supervisor, and it the ranks."""
    # Not for ranks that stayed: it would be them that it waits for.
    launcher(request.launcher_name).prepare()
    with attempt.log_path.open("ab") as output:
        return subprocess.Popen(
            [*_SUPERVISOR, str(request.grace_s), str(attempt.path), *rank_command(request)],
            env=rank_environment(request, os.environ),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C and the closing of a terminal are for the driver to hear, which then pauses its trials.
            start_new_session=True,
        )


def _watch(
    supervisor: subprocess.Popen,
    request: AttemptRequest,
    attempt: AttemptDir,
    relay: Callable[[EpochMetrics], None],
    stop: StopSignal,
) -> str:
    """Relay epochs and pass on what is asked, until the ranks have ended or must. Gives why they were told to end."""
    watch, reader = AttemptWatch(request, time.monotonic()), MetricsReader(attempt)
    stop_written, has_met, heartbeat, why = False, False, None, ""
    while not _has_exited(supervisor, _POLL_S):
        # A file system that is away for a moment is no reason to end the ranks; for long, they show no sign of life.
        with _passing_over_transient_errors():
            for metrics in reader.read_new():
                relay(metrics)
            has_met = has_met or attempt.read_communicator() is not None
            heartbeat = attempt.read_heartbeat() if has_met else None
            if _has_ranks_that_stay(request, attempt):
                break
        verdict, reason = watch.verdict(time.monotonic(), stop.requested, has_met, heartbeat)
        if verdict is Outcome.PAUSED:
            # Closing the pipe has the supervisor do as if this runner were gone: checkpoint, grace time, end.
            why = reason
            break
        if verdict is not None and not stop_written:
            attempt.request_stop(verdict)
            stop_written = True
    if why:
        _close(supervisor)
        _await_end(supervisor, request, stop)
    with _passing_over_transient_errors():
        for metrics in reader.read_new():
            relay(metrics)
    return why


def _await_end(supervisor: subprocess.Popen, request: AttemptRequest, stop: StopSignal) -> None:
    """Until it has seen to the end of the ranks: after a checkpoint, or without one where somebody is in a hurry."""
    until_s, was_urgent = time.monotonic() + request.grace_s + _SUPERVISOR_ENDS_WITHIN_S, False
    while not _has_exited(supervisor, _POLL_S) and time.monotonic() < until_s:
        if stop.is_urgent and not was_urgent:
            was_urgent = True
            supervisor.send_signal(signal.SIGQUIT)


@contextmanager
def _passing_over_transient_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_transient(error):
            raise
        log.warning("a file could not be read, for now: %s", error)


def _end_supervisor(supervisor: subprocess.Popen, grace_s: float) -> bool:
    """Leave no rank behind; whether all are gone."""
    _close(supervisor)
    if _has_exited(supervisor, grace_s + _SUPERVISOR_ENDS_WITHIN_S):
        return True
    supervisor.kill()
    return _has_exited(supervisor, 10.0)


def _close(supervisor: subprocess.Popen) -> None:
    if supervisor.stdin is not None:
        with suppress(OSError):
            supervisor.stdin.close()


def _has_exited(process: subprocess.Popen, within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end_record(request: AttemptRequest, attempt: AttemptDir, exit_code: int, why: str, wall_s: float) -> EndRecord:
    """What the files and the exit code say of the end. A result, should there be one, says more than the failure."""
    if attempt.read_result() is not None:
        return EndRecord(None, "", exit_code, wall_s)
    note, log_tail = attempt.read_rank_failure(), attempt.log_tail()
    # srun tells the highest exit code, which may be that of ranks that only missed the one that failed.
    failure = diagnosis.failure_of(note.exit_code if note else exit_code, attempt.has_begun)
    if diagnosis.may_be_out_of_memory(exit_code) and "memory" in why:
        failure = Failure.OUT_OF_MEMORY
    elif failure in (Failure.CRASHED, Failure.NOT_LAUNCHED) and not has_space(attempt.path):
        failure = Failure.DISK_FULL
    words = launcher(request.launcher_name).explain(log_tail) if failure is Failure.NOT_LAUNCHED else ""
    # Of ranks that were killed in mid-work, the last line tells only how far they were.
    logged = diagnosis.error_in(log_tail) if failure is Failure.INTERRUPTED else diagnosis.cause(log_tail)
    reason = (note.reason if note else "") or why or words or logged
    described = diagnosis.describe_exit(note.exit_code if note else exit_code)
    return EndRecord(failure, f"{reason} ({described})" if reason else described, exit_code, wall_s)


def _end(attempt: AttemptDir, record: EndRecord) -> AttemptEnd:
    """The end, also where nothing can be written or read any more."""
    failure = record.failure or Failure.CRASHED
    try:
        return attempt.end(failure, record.reason or "it left no result", record.exit_code, record.wall_s)
    except OSError as error:
        reason = "; ".join(filter(None, [record.reason, f"its files cannot be read: {error}"]))
        return AttemptEnd(None, Failure.INTERRUPTED, reason, record.exit_code, record.wall_s)


def _failure_of_runner(error: BaseException) -> Failure:
    if is_disk_full(error):
        return Failure.DISK_FULL
    # A mount or a connection that is away for a while says nothing of the trial.
    return Failure.INTERRUPTED if is_transient(error) else Failure.CRASHED


def _runner_words(error: BaseException) -> str:
    return f"the runner failed: {type(error).__name__}: {error}"
