"""Our driver without ranks: `our_driver FOLDER COUNT`. All that a study stores is stored; each trial ends at once."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import study.driver
import study.run
from cluster.pool import AttemptFinished, EpochFinished, Event
from storage.protocol.attempts import AttemptEnd, AttemptRequest
from storage.protocol.records import CommunicatorReport, EpochMetrics, Outcome, TrialResult
from storage.protocol.trial_dir import TrialDir
from study import preflight

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


class EmptyPool:
    """One worker, whose attempts have ended before they begin."""

    walltime_s = float("inf")

    def __init__(self) -> None:
        self._events: deque[Event] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def ask_for(self, workers: Mapping[int, int]) -> None:
        pass

    def idle_workers(self) -> dict[str, int]:
        return {} if self._events else {"slot-0": 1}

    def time_left_s(self, worker: str) -> float:
        return float("inf")

    def start(self, request: AttemptRequest, worker: str) -> None:
        sha256 = TrialDir(request.trial_dir).spec_sha256()
        result = TrialResult(Outcome.COMPLETED, 1, "", (_EPOCH,), 0, sha256)
        self._events.append(EpochFinished(request, _EPOCH))
        self._events.append(
            AttemptFinished(request, AttemptEnd(result=result, epochs=(_EPOCH,), communicator=_REPORT), worker)
        )

    def request_stop(self, request: AttemptRequest, outcome: Outcome) -> None:
        pass

    def hurry(self) -> None:
        pass

    def next_event(self, timeout_s: float) -> Event | None:
        return self._events.popleft() if self._events else None

    def retire(self, worker: str) -> None:
        pass

    def notices(self) -> Sequence[str]:
        return ()

    def left_behind(self) -> Sequence[str]:
        return ()


if __name__ == "__main__":
    study.driver._open_pool = lambda plan: EmptyPool()
    preflight.check = lambda *arguments, **options: ()
    folder, count = sys.argv[1:]
    settings = {"study.trials": count, "training.epochs": "1", "study.runs_dir": folder, "study.name": "empty"}
    settings["batch_policy.switch_epoch"] = "1"
    sys.exit(study.run.main([word for key, value in settings.items() for word in ("--set", f"{key}={value}")]))
