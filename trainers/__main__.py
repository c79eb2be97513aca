"""One rank: `mpirun -np N python -m trainers TRIAL_DIR` trains the trial whose spec.json lies in TRIAL_DIR.

Ranks that stay wait for another trial once theirs has come to a result: docs/adr/0014.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from storage.protocol.exit_codes import ExitCode
from storage.protocol.records import EpochMetrics, Outcome, TrialResult, TrialSpec
from storage.protocol.trial_dir import AttemptDir, TrialDir, TrialDirError
from storage.protocol.variables import REQUIRED_BACKEND, REQUIRES_ENERGY
from trainers.data_plane import require_data_plane
from trainers.faults import AgreedError, AllocationError, SpecError, SupersededError, exit_code_of
from trainers.lean_imports import import_tensorflow
from trainers.preflight import check_spec

if TYPE_CHECKING:
    from trainers.communicator import Communicator
    from trainers.energy.meter import EnergyMeter
    from trainers.train import Training


def main() -> int:
    arguments = _parse_arguments()
    trial = TrialDir(arguments.trial_dir)
    is_interrupted = _listen_for_interruption()
    own_attempt = None if arguments.attempt is None else trial.attempt(arguments.attempt)
    _begin(own_attempt)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _share_what_is_compiled(trial)
    import_tensorflow()
    # MPI starts here.
    from trainers.communicator import Communicator

    communicator = Communicator()
    before: _Before | None = None
    while True:
        ended = _run_trial(trial, own_attempt, arguments.threads, communicator, is_interrupted, before)
        if isinstance(ended, ExitCode):
            return ended
        result, before = ended
        if own_attempt is None or not arguments.stay or result.outcome is Outcome.PAUSED:
            return 0
        own_attempt = _wait_for_next(own_attempt, communicator, is_interrupted)
        if own_attempt is None:
            return 0
        trial = own_attempt.trial
        _begin(own_attempt)


def _share_what_is_compiled(trial: TrialDir) -> None:
    """Have XLA keep what it compiles where the other ranks and later trials find it. TensorFlow reads this once."""
    # If it is bad or away, all ranks will find out together.
    with contextlib.suppress(OSError):
        folder = Path(trial.read_spec().cache_dir) / "xla"
        flags = f"--tf_xla_persistent_cache_directory={folder} --tf_xla_persistent_cache_prefix=switchyard"
        os.environ["TF_XLA_FLAGS"] = f"{flags} {os.environ.get('TF_XLA_FLAGS', '')}".rstrip()


def _begin(own_attempt: AttemptDir | None) -> None:
    sys.excepthook = functools.partial(_end_alone, own_attempt)
    if own_attempt is not None:
        own_attempt.record_rank_began()


def _wait_for_next(
    attempt: AttemptDir, communicator: Communicator, is_interrupted: Callable[[], bool]
) -> AttemptDir | None:
    """The attempt that these ranks go on with; None if they are to end."""

    def look() -> tuple[Path | None] | None:
        if is_interrupted():
            return (None,)
        # A file system that is away for a moment is no reason to end.
        with contextlib.suppress(OSError):
            following = attempt.read_next()
            return None if following is None else (following.path,)
        return None

    (path,) = communicator.wait_for_first(look)
    return None if path is None else AttemptDir(path)


@dataclass(frozen=True)
class _Before:
    """What these ranks have of the trial that they trained before."""

    training: Training
    meter: EnergyMeter


def _run_trial(
    trial: TrialDir,
    own_attempt: AttemptDir | None,
    threads_per_rank: int | None,
    communicator: Communicator,
    is_interrupted: Callable[[], bool],
    before: _Before | None,
) -> tuple[TrialResult, _Before] | ExitCode:
    """Train to a result, or end as all ranks have agreed to."""
    from trainers.checkpoint import CheckpointOwner
    from trainers.communicator import configure_threads
    from trainers.energy.meter import EnergyMeter, require_energy
    from trainers.train import build_training, train

    try:
        trained = None if before is None else before.training
        spec = communicator.run_on_all_ranks(lambda: _checked_spec(trial, own_attempt, communicator, trained))
        threads = configure_threads(threads_per_rank, spec.deterministic)
        number = None if own_attempt is None else own_attempt.number
        attempt = AttemptDir(communicator.broadcast(_open_attempt(trial, number, communicator.is_first)))
        spec_sha256 = communicator.broadcast(trial.spec_sha256())
        report = dataclasses.replace(communicator.report(threads), spec_sha256=spec_sha256)
        if communicator.is_first:
            attempt.write_communicator(report)
            communicator.watchdog.publish_to(attempt.write_heartbeat)
        communicator.run_on_all_ranks(lambda: require_data_plane(report, os.environ.get(REQUIRED_BACKEND, "gloo")))
        owner = CheckpointOwner(spec.study_uuid, spec_sha256)
        # Its processes start while the model is built.
        meter = EnergyMeter(communicator, report) if before is None else before.meter
        training = build_training(spec, communicator, trained)
        report = meter.complete(report)
        if communicator.is_first:
            attempt.write_communicator(report)
        if REQUIRES_ENERGY in os.environ:
            communicator.run_on_all_ranks(lambda: require_energy(report))
        result = train(training, attempt, owner, is_interrupted, _reporter(attempt, spec), meter)
    except (AgreedError, SupersededError) as error:
        # Every rank has it; one says so.
        if communicator.is_first:
            print(f"error: {error}", file=sys.stderr)
            _record_failure(own_attempt, error)
        return exit_code_of(error)
    except (ValueError, MemoryError, AllocationError) as error:
        # Such as a data set's: in words for a person, but the other ranks do not know.
        if exit_code_of(error) is ExitCode.CRASHED:
            raise
        print(f"error: {error}", file=sys.stderr)
        _leave(own_attempt, error)
    if communicator.is_first:
        communicator.watchdog.stop_publishing()
        _finish(attempt, result)
    return result, _Before(training, meter)


def _checked_spec(
    trial: TrialDir, own_attempt: AttemptDir | None, communicator: Communicator, before: Training | None
) -> TrialSpec:
    try:
        spec = trial.read_spec()
    except TrialDirError as error:
        # A folder that is not there may be a mount that is away.
        if not trial.path.is_dir():
            raise
        raise SpecError(str(error)) from error
    communicator.require_thread_support()
    communicator.require_world_size(_promised_world_sizes(spec, own_attempt))
    check_spec(spec)
    if before is not None and spec.deterministic != before.spec.deterministic:
        # TensorFlow's threads are those of its first operation.
        raise AllocationError("these ranks cannot train a trial with another value of deterministic.")
    return spec


def _promised_world_sizes(spec: TrialSpec, own_attempt: AttemptDir | None) -> tuple[int, ...]:
    """How many ranks may train now: of those that the trial ever takes, as many as the runner was to start."""
    request = own_attempt.read_request() if own_attempt is not None and spec.growth else None
    asked_for = () if request is None else (request.layout.world_size,)
    return tuple(size for size in spec.world_sizes if size in asked_for) or spec.world_sizes


def _end_alone(
    attempt: AttemptDir | None, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    sys.__excepthook__(kind, error, traceback)
    if kind.__module__.partition(".")[0] == "mpi4py":
        # Another rank went away in the midst of a collective; this one has done nothing wrong.
        _exit(ExitCode.PEERS_LOST)
    _leave(attempt, error)


def _leave(attempt: AttemptDir | None, error: BaseException) -> NoReturn:
    """End this rank when the others may not know why: they wait for it in a collective, MPI_Finalize would make it wait
    for them, and the trial would hang. Without MPI_Finalize, the launcher ends the others."""
    _record_failure(attempt, error)
    _exit(exit_code_of(error))


def _record_failure(attempt: AttemptDir | None, error: BaseException) -> None:
    """Note that it was this rank's own fault, where there is a runner to read it."""
    words = str(error).strip().splitlines()
    # The disk that it is written to may be full.
    with contextlib.suppress(OSError):
        if attempt is not None:
            reason = words[0] if words else ""
            named = reason if isinstance(error, AgreedError | ValueError) else f"{type(error).__name__}: {reason}"
            attempt.record_rank_failure(exit_code_of(error), named)


def _exit(exit_code: ExitCode) -> NoReturn:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)


def _finish(attempt: AttemptDir, result: TrialResult) -> None:
    # Before the result, after which the log may be another attempt's.
    print(f"{result.outcome} after {result.epochs_done} epochs {result.reason}".rstrip(), flush=True)
    attempt.write_result(result)


def _reporter(attempt: AttemptDir, spec: TrialSpec) -> Callable[[EpochMetrics], None]:
    def report(metrics: EpochMetrics) -> None:
        attempt.append_metrics(metrics)
        print(
            f"epoch {metrics.epoch + 1}/{spec.epochs}: batch {metrics.global_batch_size}, "
            f"loss {metrics.train_loss:.4f}, val F1 micro {metrics.f1_micro:.4f} macro {metrics.f1_macro:.4f}, "
            f"{metrics.samples_per_s:.0f} images/s",
            flush=True,
        )

    return report


def _open_attempt(trial: TrialDir, number: int | None, is_first: bool) -> Path | None:
    """The runner opens the attempt and names it; by hand, rank 0 opens the next one."""
    if not is_first:
        return None
    return (trial.new_attempt() if number is None else trial.attempt(number)).path


def _listen_for_interruption() -> Callable[[], bool]:
    """Note SIGTERM and SIGUSR1; all ranks then save at the end of the loader batch and pause."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda signum, frame: received.append(signum))
    return lambda: bool(received)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainers", description=__doc__)
    parser.add_argument("trial_dir", type=Path, metavar="TRIAL_DIR", help="holds spec.json; results are put there")
    parser.add_argument("--attempt", type=int, help="number of an attempt that is open already; default: a new one")
    parser.add_argument("--stay", action="store_true", help="then wait for another trial; needs --attempt")
    parser.add_argument("--threads", type=int, help="per rank; default: all cores that the rank may run on")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
