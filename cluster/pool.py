"""Where runners live: a Dask cluster whose workers take one attempt at a time each."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from distributed import Client, SpecCluster

from cluster.quiet_dask import QuietScheduler, QuietWorker


class WorkerPool(AbstractContextManager["WorkerPool"], Protocol):
    """Workers that come when asked for, and may go at any time.

    Its context's end gives all of them back.
    """

    client: Client
    walltime_s: float
    """For which a new worker is there; infinite where nothing ends it."""

    def ask_for(self, workers: int) -> None:
        """Have this many, soon; a lost one is replaced at a later call. Called twice a second.

        Raises:
            RuntimeError: Of the pool's own kind, if it will never have any.
        """
        ...

    def workers(self) -> set[str]:
        """Addresses of those that are there."""
        ...

    def retire(self, worker: str) -> None:
        """Give this one's allocation back. It is idle."""
        ...

    def deadline_unix_s(self, worker: str) -> float:
        """When this one's allocation ends; infinite if never."""
        ...

    def notices(self) -> list[str]:
        """What a person should know since the last call."""
        ...


class LocalPool:
    """Worker threads inside this process.

    Messages stay in memory (inproc://): no port is open, nobody can connect and nothing needs a certificate.
    """

    walltime_s = float("inf")

    def __init__(self, slots: int) -> None:
        worker = {
            "cls": QuietWorker,
            # Dask's memory limits would count the whole driver for each worker; ranks are processes of their own.
            "options": {"nthreads": 1, "protocol": "inproc://", "dashboard": False, "memory_limit": 0},
        }
        self._cluster = SpecCluster(
            scheduler={"cls": QuietScheduler, "options": {"protocol": "inproc://", "dashboard": False}},
            workers=dict.fromkeys(range(slots), worker),
            silence_logs=True,
        )
        self.client = Client(self._cluster)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.client.close()
        self._cluster.close()

    def ask_for(self, workers: int) -> None:
        """They are all there from the beginning, and cost nothing."""

    def workers(self) -> set[str]:
        return set(self.client.scheduler_info(n_workers=-1)["workers"])

    def retire(self, worker: str) -> None:
        """There is no allocation to give back."""

    def deadline_unix_s(self, worker: str) -> float:
        return float("inf")

    def notices(self) -> list[str]:
        return []
