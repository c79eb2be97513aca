"""Our driver without ranks: `our_driver FOLDER COUNT`. All that a study stores is stored; each trial ends at once.

With `--asha` trials have the epochs and scores of curve.py, and the study stops the weak ones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import study.driver
import study.run
from cluster.pool import AttemptFinished, EpochFinished, Event
from storage.protocol.attempts import AttemptEnd, AttemptRequest
from storage.protocol.records import CommunicatorReport, EpochMetrics, Outcome, TrialResult
from storage.protocol.trial_dir import TrialDir
from study import preflight
from tests.bench.peers.curve import EPOCHS, FACTOR, score

_EPOCH = EpochMetrics(
    epoch=0,
    train_loss=0.5,
    val_loss=0.5,
    f1_micro=0.5,
    f1_macro=0.5,
    global_batch_size=32,
    learning_rate=0.1,
    updates=1,
    samples=32,
    samples_per_s=1.0,
    first_batch_s=0.1,
    wall_s=0.1,
)
_REPORT = CommunicatorReport(
    world_size=2,
    hosts=["localhost"] * 2,
    data_plane="mpi",
    nccl_built=False,
    mpi_built=True,
    gloo_built=False,
    mpi_enabled=True,
    gloo_enabled=False,
    gpus=[""] * 2,
    threads_per_rank=1,
    versions={},
)


_WORKER = "slot-0"


class EmptyPool:
    """One worker, whose ranks need no time.

    Args:
        epochs: Of a trial that nobody stops.
    """

    walltime_s = float("inf")

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._request: AttemptRequest | None = None
        self._done: list[EpochMetrics] = []
        self._outcome = Outcome.COMPLETED

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def ask_for(self, workers: Mapping[int, int]) -> None:
        pass

    def idle_workers(self) -> dict[str, int]:
        return {} if self._request else {_WORKER: 1}

    def time_left_s(self, worker: str) -> float:
        return float("inf")

    def start(self, request: AttemptRequest, worker: str) -> None:
        self._request, self._done, self._outcome = request, [], Outcome.COMPLETED
        # Before ranks have said what they train, no epoch of theirs is judged.
        TrialDir(request.trial_dir).attempt(request.attempt_number).write_communicator(_REPORT)

    def request_stop(self, request: AttemptRequest, outcome: Outcome) -> None:
        self._outcome = outcome

    def hurry(self) -> None:
        pass

    def next_event(self, timeout_s: float) -> Event | None:
        if (request := self._request) is None:
            return None
        trial, epoch = TrialDir(request.trial_dir), len(self._done)
        if epoch < self._epochs and self._outcome is Outcome.COMPLETED:
            self._done.append(replace(_EPOCH, epoch=epoch, f1_micro=score(int(trial.path.name), epoch)))
            return EpochFinished(request, self._done[-1])
        self._request, epochs = None, tuple(self._done)
        result = TrialResult(self._outcome, epoch, "", epochs, 0, trial.spec_sha256())
        return AttemptFinished(request, AttemptEnd(result=result, epochs=epochs, communicator=_REPORT), _WORKER)

    def retire(self, worker: str) -> None:
        pass

    def allocations(self) -> None:
        """None are held."""

    def notices(self) -> Sequence[str]:
        return ()

    def left_behind(self) -> Sequence[str]:
        return ()


def main(folder: str, count: str, with_asha: bool) -> int:
    epochs = EPOCHS if with_asha else 1
    study.driver._open_pool = lambda plan: EmptyPool(epochs)
    preflight.check = lambda *arguments, **options: ()
    settings = {
        "study.trials": count,
        "study.runs_dir": folder,
        "study.name": "empty",
        "training.epochs": str(epochs),
        "batch_policy.switch_epoch": str(epochs),
    }
    if with_asha:
        settings["pruner"] = f'{{name="asha", factor={FACTOR}}}'
    return study.run.main([word for key, value in settings.items() for word in ("--set", f"{key}={value}")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], with_asha="--asha" in sys.argv))
