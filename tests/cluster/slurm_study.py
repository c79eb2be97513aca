"""A study on a sandbox, run as a person runs it and watched from outside: squeue, processes, files, database."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import optuna
import psutil

from cluster.sandbox import Sandbox
from storage.protocol.trial_dir import TrialDir
from tests.ranks_form import RANKS_STAY
from tests.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
# TensorFlow starts in 5 seconds on an idle core; these tests share two with one another's ranks.
START_S = 150.0

CONFIG = """
[study]
name = "{name}"
trials = {trials}
seed = 7
crash_retries = {crash_retries}

[training]
epochs = {epochs}
loader_batch_size = 8

[model]
name = "small_resnet"
width = 4
blocks = [1]

[dataset]
name = "synthetic_bigearthnet"
train = {train}
val = 32
test = 0
size = 16

[optimizer]
name = "sgd"

[batch_policy]
name = "constant"
global_batch_size = {global_batch_size}

[search_space.optimizer]
learning_rate = {{ type = "float", low = 1e-3, high = 1e-2, log = true }}
"""

SITE = """
launcher = "{launcher}"
nodes_per_trial = {nodes}
ranks_per_node = {ranks_per_node}
cpus_per_rank = 1
max_concurrent_trials = {jobs}
checkpoint_grace_s = 15
resident_ranks = {ranks_stay}
rendezvous_timeout_s = {rendezvous_timeout_s}
gpus_per_node = {gpus_per_node}
required_backend = "mpi"

[environment]
PYTHONPATH = "{pythonpath}"
HOLD_DIR = "{folder}"
HOLD_AT_READ = "{hold_at_read}"
HOROVOD_STALL_CHECK_TIME_SECONDS = "5"
HOROVOD_STALL_SHUTDOWN_TIME_SECONDS = "{horovod_stall_s}"
SWITCHYARD_WATCHDOG_LIMIT_S = "{stall_s}"

[slurm]
queue = "gpu"
walltime = "{walltime}"
interface = "{interface}"
driver_interface = "{driver_interface}"
death_timeout_s = {death_timeout_s}
squeue_every_s = 1
pending_notice_s = {pending_notice_s}
"""


@dataclass(frozen=True)
class RecordedJob:
    """What Slurm itself says of a job that is over, in whole seconds."""

    nodes: int
    lasted_s: float

    @classmethod
    def parse(cls, line: str) -> RecordedJob | None:
        """Read a line of jobcomp/filetxt; None of a job that was cancelled before it had nodes."""
        record = dict(re.findall(r"(\w+)=(\S+)", line))
        if record["StartTime"] in ("Unknown", record["EndTime"]):
            return None
        start, end = (datetime.fromisoformat(record[key]) for key in ("StartTime", "EndTime"))
        return cls(int(record["NodeCnt"]), (end - start).total_seconds())


@dataclass
class SlurmStudy:
    """One study, its driver started once or several times."""

    sandbox: Sandbox
    folder: Path
    name: str = "faults"
    launcher: str = "srun"
    crash_retries: int = 1
    trials: int = 1
    epochs: int = 30
    train: int = 256
    global_batch_size: int = 8
    nodes: int = 2
    ranks_per_node: int = 1
    gpus_per_node: int = 1
    jobs: int = 1
    walltime: str = "01:00:00"
    interface: str = "lo"
    driver_interface: str = "lo"
    death_timeout_s: int = 20
    pending_notice_s: int = 600
    resident_ranks: bool = RANKS_STAY
    hold_at_read: int = 0
    """Batch before which each rank of each attempt waits until it is told to go, counted from 1; 0: none does."""
    stall_s: int = 120
    horovod_stall_s: int = 10
    rendezvous_timeout_s: int = 60
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def study_dir(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def pythonpath(self) -> str:
        return f"{REPOSITORY / 'tests/trainers/held_ranks'}:{REPOSITORY}"

    @property
    def output(self) -> str:
        """What all drivers printed."""
        path = self.folder / "driver.out"
        return path.read_text() if path.exists() else ""

    def start(self, *options: str) -> None:
        """Start the driver, in a process group of its own."""
        config, site = self.folder / "study.toml", self.folder / "site.toml"
        config.write_text(CONFIG.format(**vars(self)))
        site.write_text(
            SITE.format(**vars(self), pythonpath=self.pythonpath, ranks_stay=str(self.resident_ranks).lower())
        )
        command = [sys.executable, "study/run.py", "--config", str(config), "--site", str(site)]
        command += ["--set", f"study.runs_dir={self.folder / 'runs'}", *options]
        with (self.folder / "driver.out").open("ab") as out:
            self.drivers.append(
                subprocess.Popen(
                    command,
                    cwd=REPOSITORY,
                    env=self.sandbox.environ,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    @property
    def driver(self) -> subprocess.Popen[bytes]:
        return self.drivers[-1]

    def wait_for_end(self, within_s: float) -> int:
        """The driver's exit code."""
        try:
            return self.driver.wait(within_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the driver has not ended after {within_s:g} s; it printed:\n{self.output}") from None

    def trial(self, number: int) -> TrialDir:
        return TrialDir(self.study_dir / "trials" / f"{number:04d}")

    def wait_for_held_ranks(self, attempt: int, trial: int = 0) -> None:
        """Until all ranks of this attempt wait in mid-epoch, before batch `hold_at_read`.

        Raises:
            TimeoutError: They do not, or the driver has ended.
        """
        markers = self._markers(trial, attempt)

        def all_held() -> bool:
            if self.driver.poll() is not None:
                raise TimeoutError(f"the driver ended with {self.driver.returncode}; it printed:\n{self.output}")
            return all(marker.exists() for marker in markers)

        try:
            wait_until(all_held, START_S, pause_s=0.1)
        except TimeoutError as error:
            log = self.trial(trial).attempt(attempt).log_tail(1000)
            raise TimeoutError(f"attempt {attempt} never waits; its log: {log}; the driver: {self.output}") from error

    def release_ranks(self, attempt: int, trial: int = 0) -> None:
        """Let the waiting ranks of this attempt go on."""
        for marker in self._markers(trial, attempt):
            marker.unlink(missing_ok=True)

    def hold_no_more(self) -> None:
        """Let the ranks of attempts to come train to the end."""
        (self.folder / "held-no-more").touch()

    def _markers(self, trial: int, attempt: int) -> list[Path]:
        held = f"held-{self.trial(trial).path.name}-{attempt}"
        return [self.folder / f"{held}-{rank}" for rank in range(self.nodes * self.ranks_per_node)]

    def wait_for_output(self, text: str, within_s: float) -> None:
        try:
            wait_until(lambda: text in self.output, within_s, pause_s=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{text!r} is not in what the driver printed:\n{self.output}") from error

    def job_ids(self) -> list[str]:
        """Jobs in the queue, newest last."""
        return sorted(self.sandbox.run("squeue", "--noheader", "--format=%i").split(), key=int)

    def jobs_that_ran(self) -> list[str]:
        """All that ever did, by the logs that they left."""
        return sorted((log.stem for log in (self.study_dir / "jobs").glob("*.log")), key=int)

    def nodes_of(self, job_id: str) -> list[str]:
        """First the one on which the runner is."""
        record = self.sandbox.run("scontrol", "show", "job", job_id)
        match = re.search(r" NodeList=(\S+)", record)
        assert match is not None, record
        return self.sandbox.run("scontrol", "show", "hostnames", match[1]).split()

    def processes(self, part: str) -> list[psutil.Process]:
        """This study's processes with `part` in their command line."""
        return list(self._find_processes(part))

    def ranks(self) -> list[psutil.Process]:
        """The ranks, that of the first node first."""
        found = [process for process in self.processes("trainers") if "cluster.supervisor" not in process.cmdline()]
        found = [process for process in found if process.cmdline()[1:3] == ["-m", "trainers"]]
        return sorted(found, key=lambda rank: int(rank.environ().get("SLURM_PROCID", "0")))

    def worker(self) -> psutil.Process:
        """The runner's process."""
        (worker,) = self.processes("distributed.cli.dask_worker")
        return worker

    def _find_processes(self, part: str) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if part in line and str(self.study_dir) in line and "python" in process.name():
                yield process

    def require_nothing_left(self, within_s: float = 60) -> None:
        """No job in the queue, no runner and no rank alive."""

        def left() -> list[str]:
            alive = [*self.processes("trainers"), *self.processes("dask_worker")]
            return [f"job {job}" for job in self.job_ids()] + [f"process {process.pid}" for process in alive]

        try:
            wait_until(lambda: not left(), within_s, pause_s=0.5)
        except TimeoutError as error:
            raise TimeoutError(
                f"after {within_s:g} s there are still: {left()}\n{self.sandbox.run('squeue')}"
            ) from error

    def load(self) -> optuna.Study:
        """The study as its database has it now."""
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.study_dir / 'study.db'}")
        return optuna.load_study(study_name=self.name, storage=storage)

    def recorded_jobs(self) -> list[RecordedJob]:
        """All that ran, by the records that Slurm writes when a job is over; waits for them."""
        log = self.sandbox.layout.root / "log/jobcomp.log"

        def records() -> list[str] | None:
            lines = log.read_text().splitlines()
            return lines if len(lines) >= len(self.jobs_that_ran()) else None

        return [job for line in wait_until(records, 60) if (job := RecordedJob.parse(line))]

    def require_complete(self) -> None:
        """Every trial told once, every epoch in the database once, each attempt gone on from a checkpoint."""
        trials = self.load().get_trials(deepcopy=False)
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * self.trials, self.output
        for trial in trials:
            assert sorted(trial.intermediate_values) == list(range(self.epochs))
            assert trial.user_attrs["outcome"] == "completed"
            self._require_resumed(trial.number)

    def _require_resumed(self, number: int) -> None:
        done = 0
        for attempt in self.trial(number).attempts():
            epochs = [metrics.epoch for metrics in attempt.read_metrics()]
            if not epochs:
                continue
            # The last epoch of an attempt that was cut off may have ended before its checkpoint was written.
            assert epochs[0] in (done, done - 1), f"{attempt.path}: began with {epochs[0]}, {done} were done"
            assert epochs == list(range(epochs[0], epochs[-1] + 1))
            done = epochs[-1] + 1
        assert done == self.epochs

    def attempt_ends(self, number: int = 0) -> list[str]:
        """How the trial's attempts ended, in the database's words."""
        trial = self.load().get_trials(deepcopy=False)[number]
        return [json.loads(json.dumps(attempt))["end"] for attempt in trial.user_attrs.get("attempts", [])]

    def stop(self) -> None:
        """After a test that failed half-way."""
        for driver in self.drivers:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait(10)
