"""One rank: `mpirun -np N python -m trainers TRIAL_DIR` trains the trial whose spec.json lies in TRIAL_DIR."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from storage.records import EpochMetrics, TrialResult, TrialSpec
from storage.trial_dir import AttemptDir, TrialDir, TrialDirError, is_disk_full
from trainers import components
from trainers.batch_plan import plan_batch
from trainers.data_plane import SLOWEST_VARIABLE, require_data_plane
from trainers.datasets import Dataset, DatasetError, Split
from trainers.stall_watch import EXIT_PEERS_LOST

if TYPE_CHECKING:
    from trainers.communicator import Communicator

EXIT_CRASHED = 1
EXIT_BAD_SPEC = 2
EXIT_SUPERSEDED = 4
EXIT_DISK_FULL = 5


class SpecError(ValueError):
    """The specification asks for what cannot be trained."""


def main() -> int:
    arguments = _parse_arguments()
    trial = TrialDir(arguments.trial_dir)
    if not arguments.check:
        return _train(trial, arguments)
    try:
        check_spec(trial.read_spec())
    except (SpecError, TrialDirError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_SPEC
    return 0


def check_spec(spec: TrialSpec) -> None:
    """Check all that can be checked without TensorFlow: data set, splits and every batch size.

    Raises:
        SpecError: With what to change.
    """
    try:
        policy = components.build("batch_policies", spec.batch_policy)
        for size in policy.global_batch_sizes:
            plan_batch(size, spec.world_size, spec.loader_batch_size)
        dataset: Dataset = components.build("datasets", spec.dataset, Path(spec.cache_dir))
    except ValueError as error:
        raise SpecError(str(error)) from error
    sizes = dataset.sizes()
    for split in (Split.TRAIN, Split.VAL):
        if sizes.get(split, 0) < spec.world_size:
            raise SpecError(
                f"the {split} split of {spec.dataset.name} holds {sizes.get(split, 0)} samples; it needs at least one "
                f"for each of the {spec.world_size} ranks."
            )


def _train(trial: TrialDir, arguments: argparse.Namespace) -> int:
    is_interrupted = _listen_for_interruption()
    own_attempt = None if arguments.attempt is None else trial.attempt(arguments.attempt)
    sys.excepthook = functools.partial(_end_alone, own_attempt)
    if own_attempt is not None:
        own_attempt.note_rank_began()
    # Imported here: a check answers without waiting for TensorFlow, and MPI starts only in a rank.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # As cluster/attempt.py has it, for a trial that is started by hand: oneDNN's kernels corrupt memory.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from trainers.communicator import AgreedError, Communicator, configure_threads
    from trainers.train import BatchTooLargeError, SupersededError, build_training, train

    communicator = Communicator()
    try:
        spec = communicator.all_or_none(lambda: _checked_spec(trial, communicator))
        threads = configure_threads(arguments.threads, spec.deterministic)
        attempt = AttemptDir(communicator.broadcast(_open_attempt(trial, arguments.attempt, communicator.is_first)))
        report = communicator.report(threads)
        if communicator.is_first:
            attempt.write_communicator(report)
        communicator.all_or_none(lambda: require_data_plane(report, os.environ.get(SLOWEST_VARIABLE, "gloo")))
        result = train(build_training(spec, communicator), attempt, is_interrupted, _reporter(attempt, spec))
    except (AgreedError, SupersededError) as error:
        # Every rank has it; one says so.
        if communicator.is_first:
            print(f"error: {error}", file=sys.stderr)
        return EXIT_SUPERSEDED if isinstance(error, SupersededError) else EXIT_BAD_SPEC
    except (DatasetError, BatchTooLargeError) as error:
        print(f"error: {error}", file=sys.stderr)
        _leave(own_attempt, EXIT_DISK_FULL if is_disk_full(error) else EXIT_BAD_SPEC)
    if communicator.is_first:
        _finish(attempt, result)
    return 0


def _checked_spec(trial: TrialDir, communicator: Communicator) -> TrialSpec:
    spec = trial.read_spec()
    communicator.require_world_size(spec.world_size)
    check_spec(spec)
    return spec


def _end_alone(
    attempt: AttemptDir | None, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    sys.__excepthook__(kind, error, traceback)
    if kind.__module__.partition(".")[0] == "mpi4py":
        # Another rank went away in the midst of a collective; this one has done nothing wrong.
        _leave(None, EXIT_PEERS_LOST)
    _leave(attempt, EXIT_DISK_FULL if is_disk_full(error) else EXIT_CRASHED)


def _leave(attempt: AttemptDir | None, exit_code: int) -> NoReturn:
    """End this rank when the others may not know why: they wait for it in a collective, MPI's farewell would make it
    wait for them, and the trial would hang. Without the farewell, the launcher ends the others.

    Args:
        attempt: Where to note that it was this rank's own fault; None if it was not, or where there is no runner.
    """
    # The disk that the log is on may be full.
    with contextlib.suppress(OSError):
        if attempt is not None:
            attempt.note_rank_failed(exit_code)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)


def _finish(attempt: AttemptDir, result: TrialResult) -> None:
    attempt.write_result(result)
    print(f"{result.outcome} after {result.epochs_done} epochs {result.reason}".rstrip(), flush=True)


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
    parser.add_argument("--threads", type=int, help="per rank; default: all cores that the rank may run on")
    parser.add_argument("--check", action="store_true", help="check the specification and its data set, train nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
