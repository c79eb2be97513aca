"""One rank that measures: `mpirun -np N python -m trainers.gpu_check FOLDER --attempt 1`

FOLDER says what, and is where rank 0 writes what was found (storage/protocol/gpu_check.py). What has come to a result,
or has failed, is passed over, so that ranks which are started again go on with the next measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from storage.protocol.exit_codes import ExitCode
from storage.protocol.gpu_check import (
    ALLREDUCE,
    INPUT,
    RANKS,
    AllreduceFacts,
    CheckFolder,
    CheckRequest,
    InputFacts,
    ProgramFacts,
    RanksFacts,
)
from storage.protocol.records import TrialSpec
from storage.protocol.trial_dir import AttemptDir
from storage.protocol.variables import REQUIRED_BACKEND
from trainers import components
from trainers.data_plane import require_data_plane
from trainers.faults import AllocationError, exit_code_of, values_are_of_the_spec
from trainers.lean_imports import import_tensorflow

if TYPE_CHECKING:
    from trainers.communicator import Communicator
    from trainers.datasets import Dataset

# Lines of a trace in TensorFlow's errors.
_TRACE = ("Graph execution error", "Detected at node", "<stack traces", "File ")


def main() -> int:
    arguments = _parse_arguments()
    folder = CheckFolder(arguments.folder)
    attempt = folder.trial.attempt(arguments.attempt)
    sys.excepthook = functools.partial(_end_alone, attempt)
    attempt.record_rank_began()
    measure_all(folder, arguments.threads, time.monotonic() + arguments.seconds_left)
    return 0


def measure_all(folder: CheckFolder, threads_per_rank: int, until_s: float) -> None:
    """Take the measurements that are left in one precision, in turn, while there is time for one that lasts as long as
    the longest.

    Args:
        until_s: On this process' monotonic clock; rank 0's counts.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import_tensorflow()
    # MPI starts here.
    from trainers.communicator import Communicator, configure_threads

    communicator, request, spec = Communicator(), folder.read_request(), folder.trial.read_spec()
    threads = configure_threads(threads_per_rank, spec.deterministic)
    ranks = _Ranks(communicator, spec, request, threads)
    longest_s = folder.read_longest_s()
    # As rank 0 sees it: another node may see a new file later.
    left = communicator.broadcast(folder.left(request))
    for name in left:
        if request.precision_of(name) != request.precision_of(left[0]):
            return
        if communicator.broadcast(time.monotonic() + longest_s > until_s):
            return
        if communicator.is_first:
            folder.begin(name)
        started_s = time.monotonic()
        facts = ranks.measure(name)
        longest_s = max(longest_s, time.monotonic() - started_s)
        if communicator.is_first:
            folder.write(name, facts)
            folder.write_longest_s(longest_s)
        if isinstance(facts, RanksFacts) and facts.refusal:
            return


class _Ranks:
    """All ranks, and what they are to measure."""

    def __init__(
        self, communicator: Communicator, spec: TrialSpec, request: CheckRequest, threads_per_rank: int
    ) -> None:
        self.communicator, self.spec, self.request = communicator, spec, request
        self._threads_per_rank = threads_per_rank
        self._programs = {program.name: program for program in request.programs}

    def measure(self, name: str) -> RanksFacts | AllreduceFacts | ProgramFacts | InputFacts:
        """Take one measurement. A collective."""
        from trainers.gpu_check.allreduce_time import measure_allreduce
        from trainers.gpu_check.input_rate import measure_input
        from trainers.gpu_check.step_time import measure_program

        if name == RANKS:
            return self._introduce()
        sizes, dataset = self.request.local_batch_sizes, self._dataset()
        if name == ALLREDUCE:
            return measure_allreduce(self.request.programs[0], self.spec, dataset, self.communicator)
        if name == INPUT:
            return measure_input(self.spec, dataset, max(sizes), self.communicator)
        return measure_program(self._programs[name], self.spec, dataset, sizes, self.communicator)

    def _introduce(self) -> RanksFacts:
        report, refusal = self.communicator.report(self._threads_per_rank), ""
        try:
            self.communicator.require_thread_support()
            self.communicator.require_world_size(self.spec.world_sizes)
            require_data_plane(report, os.environ.get(REQUIRED_BACKEND, "gloo"))
        except AllocationError as error:
            refusal = str(error)
        return RanksFacts(report, refusal)

    def _dataset(self) -> Dataset:
        with values_are_of_the_spec():
            dataset: Dataset = components.build("datasets", self.spec.dataset, Path(self.spec.cache_dir))
        return dataset


def _end_alone(
    attempt: AttemptDir, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> NoReturn:
    """End without the other ranks, which may not know: they wait for this one, and the launcher ends them."""
    is_of_mpi = kind.__module__.partition(".")[0] == "mpi4py"
    exit_code = ExitCode.PEERS_LOST if is_of_mpi else exit_code_of(error)
    with contextlib.suppress(OSError):
        # A rank that MPI ends has lost another one, which says why.
        if not is_of_mpi:
            attempt.record_rank_failure(exit_code, f"{kind.__name__}: {_words_of(error)}")
        sys.__excepthook__(kind, error, traceback)
        sys.stderr.flush()
    os._exit(exit_code)


def _words_of(error: BaseException) -> str:
    """The line that says it: TensorFlow puts a trace of the code before its words, or one of the graph behind them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_TRACE)] or [""]
    if lines and lines[0].startswith("in user code"):
        return said[-1]
    return next((line for line in said if "OOM" in line), said[0])


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainers.gpu_check", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds spec.json and check.json; facts go there")
    parser.add_argument("--attempt", type=int, required=True, help="number of an attempt that is open")
    parser.add_argument("--threads", type=int, required=True, help="per rank")
    parser.add_argument("--seconds-left", type=float, required=True, help="for all measurements")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
