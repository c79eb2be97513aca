"""A batch system whose jobs are processes of this machine, each a Dask worker: all of a cluster but the queue."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distributed import SpecCluster

from cluster.batch_system import JobState, QueuedJob
from cluster.certificates import TlsFiles, create_certificates
from cluster.dask_link import DaskLink, scheduler_settings
from cluster.job_pool import JobPool, PoolSettings
from cluster.quiet_dask import QuietScheduler
from cluster.reconcile import Jobs, Limits
from cluster.slurm.pool import attempt_dir
from storage.protocol.clock import SYSTEM_CLOCK
from tests.architecture.sources import REPOSITORY


class ProcessBatch:
    def __init__(self, folder: Path, tls: TlsFiles, address: str, environment: dict[str, str]) -> None:
        self._folder, self._tls, self._address = folder, tls, address
        self._environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
        self.processes: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        self._nodes: dict[str, int] = {}

    def submit(self, name: str, nodes: int) -> str:
        job_id = str(len(self.processes) + 1)
        with (self._folder / f"{job_id}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "distributed.cli.dask_worker", self._address, "--name", name),
                    *("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"),
                    *("--death-timeout", "10", "--worker-class", "cluster.quiet_dask.QuietWorker"),
                    *("--interface", "lo", "--protocol", "tls://", "--tls-ca-file", str(self._tls.authority)),
                    *("--tls-cert", str(self._tls.certificate), "--tls-key", str(self._tls.key)),
                ],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[job_id] = (name, process)
        self._nodes[job_id] = nodes
        return job_id

    def cancel(self, job_ids: Sequence[str]) -> None:
        for job_id in self.processes.keys() & set(job_ids):
            self.processes[job_id][1].terminate()

    def queue(self) -> list[QueuedJob]:
        found = []
        for job_id, (name, process) in self.processes.items():
            has_ended = process.poll() is not None
            words = f"exit code {process.returncode}" if has_ended else "RUNNING"
            state = JobState.ENDED if has_ended else JobState.RUNNING
            found.append(QueuedJob(job_id, name, state, words, self._nodes[job_id], float("inf")))
        return found

    def describe_waiting(self) -> str:
        return "nobody waits here"

    def log_tail(self, job_id: str) -> str:
        return (self._folder / f"{job_id}.log").read_text()[-500:]

    def close(self) -> None:
        for _, process in self.processes.values():
            process.kill()
            process.wait(30)


@contextmanager
def process_pool(**environment: str) -> Iterator[tuple[JobPool, ProcessBatch]]:
    """A pool of such jobs, that is open.

    Args:
        environment: Added to that of the workers.
    """
    with tempfile.TemporaryDirectory(prefix="switchyard-jobs-") as folder:
        tls = create_certificates(Path(folder) / "tls", "contract")
        options = {"protocol": "tls://", "interface": "lo", "dashboard": False, "security": tls.security()}
        with scheduler_settings():
            cluster = SpecCluster(
                scheduler={"cls": QuietScheduler, "options": options}, security=tls.security(), silence_logs=True
            )
        link = DaskLink(cluster)
        batch = ProcessBatch(Path(folder), tls, link.address(), environment)
        settings = PoolSettings(Limits(runner_gone_s=2.0), float("inf"), queue_every_s=0.5)
        pool = JobPool(batch, link, Jobs("contract-"), settings, SYSTEM_CLOCK, attempt_dir)
        try:
            with pool:
                yield pool, batch
        finally:
            batch.close()
