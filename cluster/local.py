"""A Dask cluster inside this process: one worker thread per trial that runs at once, and no open port."""

from __future__ import annotations

from distributed import SpecCluster

from cluster.quiet_dask import QuietScheduler, QuietWorker


def open_local_cluster(slots: int) -> SpecCluster:
    """Start it. Messages stay in memory (inproc://), so nobody can connect and nothing needs a certificate."""
    worker = {
        "cls": QuietWorker,
        # Dask's memory limits would count the whole driver for each worker; the ranks are processes of their own.
        "options": {"nthreads": 1, "protocol": "inproc://", "dashboard": False, "memory_limit": 0},
    }
    return SpecCluster(
        scheduler={"cls": QuietScheduler, "options": {"protocol": "inproc://", "dashboard": False}},
        workers=dict.fromkeys(range(slots), worker),
        silence_logs=True,
    )
