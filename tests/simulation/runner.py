"""A job's runner with its supervisor and its ranks, as far as the driver and the files can tell them from real ones."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster.attempt import AttemptWatch
from storage.protocol.attempts import AttemptEnd, AttemptRequest, EndRecord, ExitRecord, Failure
from storage.protocol.codec import from_plain, to_json, to_plain
from storage.protocol.records import CommunicatorReport, EpochMetrics, Outcome, TrialResult, TrialSpec
from storage.protocol.trial_dir import AttemptDir, TrialDir
from tests.simulation.files import MachineFiles

if TYPE_CHECKING:
    from tests.simulation.cluster import SimulatedCluster, SimulatedJob

_BATCHES_PER_EPOCH = 3
_BATCH_S = 4.0
_START_S = 8.0
_TICK_S = 2.0
_WATCHDOG_S = 60.0
DEATH_TIMEOUT_S = 30.0
REPORT = CommunicatorReport(4, ["a", "a", "b", "b"], "mpi", False, True, False, True, False, [""] * 4, 1, {})

LET_WRONG_CHECKPOINTS_PASS = False
"""Set by a mutant."""


def score(spec: TrialSpec, epoch: int) -> float:
    """What training gives: a function of what is trained."""
    trained = json.dumps([to_plain(spec.optimizer), spec.seed, epoch], sort_keys=True)
    return int(hashlib.sha256(trained.encode()).hexdigest()[:8], 16) / 2**32


class SimulatedRunner:
    """Waits for attempts, one at a time, as long as its driver and its job are there."""

    def __init__(self, job: SimulatedJob, cluster: SimulatedCluster) -> None:
        self.job, self.cluster, self.world = job, cluster, cluster.world
        self.driver = job.driver
        self.name = job.name
        self.attempt: _Attempt | None = None
        self.is_gone = False

    def begin(self) -> None:
        if self.is_gone:
            return
        if not self.driver.is_alive:
            self._end_job_unless_driver_returns()
            return
        if self.world.chance(0.02):
            # It never reaches its driver.
            self.world.after(DEATH_TIMEOUT_S, lambda: self.cluster.end(self.job, "FAILED"))
            return
        self.driver.link.runner_came(self)

    def start(self, request: AttemptRequest) -> None:
        """The driver's word has arrived."""
        if self.is_gone or self.attempt is not None:
            return
        self.attempt = _Attempt(self, request)
        self.attempt.begin()

    def stop(self, key: str, outcome: Outcome) -> None:
        if self.attempt is not None and self.attempt.request.key == key and not self.is_gone:
            self.attempt.ask(outcome)

    def tell_epoch(self, request: AttemptRequest, metrics: EpochMetrics) -> None:
        if not self.world.chance(0.02):
            self.driver.link.deliver(lambda: self.driver.link.on_epoch(request.key, metrics))

    def tell_end(self, request: AttemptRequest, end: AttemptEnd) -> None:
        self.attempt = None
        # A word that is lost with its connection; the files still have it.
        if self.world.chance(0.02):
            return
        for _ in range(2 if self.world.chance(0.05) else 1):
            self.driver.link.deliver(lambda: self.driver.link.on_end(request.key, end))

    def driver_is_gone(self) -> None:
        """The connection broke: the worker closes, its supervisor pauses the ranks."""
        if self.is_gone:
            return
        self.is_gone = True
        if self.attempt is not None:
            self.attempt.runner_is_gone()
        self.world.after(DEATH_TIMEOUT_S, lambda: self.cluster.end(self.job, "COMPLETED"))

    def _end_job_unless_driver_returns(self) -> None:
        self.is_gone = True
        self.world.after(DEATH_TIMEOUT_S, lambda: self.cluster.end(self.job, "COMPLETED"))

    def job_is_cancelled(self) -> None:
        """SIGTERM, and SIGKILL half a minute later."""
        self._leave()
        if self.attempt is not None:
            attempt = self.attempt
            attempt.runner_is_gone()
            self.world.after(30.0, attempt.vanish)

    def vanish(self) -> None:
        """With its node, or killed."""
        self._leave()
        if self.attempt is not None:
            self.attempt.vanish()

    def _leave(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            # The driver notices at once, or when its packets are not answered.
            lag_s = self.world.between(5.0, 30.0) if self.world.chance(0.3) else 0.2
            self.world.after(lag_s, lambda: self.driver.link.runner_left(self.name))

    def hang(self) -> None:
        """Its process does nothing any more, and says nothing to its supervisor either: the ranks train on."""
        if self.is_gone:
            return
        self.world.log(f"job {self.job.job_id}", "has a runner that hangs")
        self.is_gone = True
        self.world.after(30.0, lambda: self.driver.link.runner_left(self.name))

    def be_cut_off(self, seconds: float) -> None:
        """Its node is out of the driver's reach, and of the file system's, for a while; its ranks wait."""
        if self.is_gone:
            return
        self.world.log(f"job {self.job.job_id}", f"is cut off for {seconds:.0f} s")
        self.is_gone = True
        self.world.after(29.0, lambda: self.driver.link.runner_left(self.name))
        if self.attempt is not None:
            self.attempt.freeze(seconds)
            self.world.after(seconds + 0.1, self.attempt.runner_is_gone)
        # Back in reach, its worker finds its connection broken and closes.
        self.world.after(seconds + 40.0, lambda: self.cluster.end(self.job, "COMPLETED"))


@dataclass
class _Progress:
    history: list[EpochMetrics]
    batches: int = 0


class _Attempt:
    """The supervisor and the ranks."""

    def __init__(self, runner: SimulatedRunner, request: AttemptRequest) -> None:
        self.runner, self.request, self.world = runner, request, runner.world
        machine = f"job-{runner.job.job_id}"
        self.files = MachineFiles(runner.driver.universe.shared, machine, fault_rate=0.002)
        self.dir: AttemptDir = TrialDir(request.trial_dir, self.files).attempt(request.attempt_number)
        self.who = f"trial {request.trial_number}/{request.attempt_number}"
        self.began_s = self.world.now_s
        self.watch = AttemptWatch(request, self.began_s)
        self.asked: Outcome | None = None
        self.verdict: Outcome | None = None
        """Of the pruner: to end at the next epoch's end."""
        self.has_met = False
        self.is_over = False
        self.frozen_until_s = 0.0
        self.progressed_s = self.began_s
        self.spec: TrialSpec | None = None
        self.progress = _Progress([])
        self.heartbeat_s = self.lived_s = 0.0
        self.says_its_time = True
        """Not if it hung or was frozen, or its disk was full: the files say little of its end then."""

    def begin(self) -> None:
        self.world.log(self.who, f"begins in job {self.runner.job.job_id}")
        self.runner.driver.universe.ranks_begin(self)
        self._supervise()
        if self.world.chance(0.01):
            return  # They never find one another.
        self.world.after(self.world.between(0.5, 1.5) * _START_S, self._meet)

    # The supervisor.

    def _supervise(self) -> None:
        if self.is_over:
            return
        if self.world.now_s < self.frozen_until_s:
            self.world.after(self.frozen_until_s - self.world.now_s, self._supervise)
            return
        try:
            if self.dir.is_superseded():
                self._end(Failure.SUPERSEDED, "a newer attempt is there", 4)
                return
            self.has_met = self.has_met or self.dir.read_communicator() is not None
            has_met, heartbeat = self.has_met, self.dir.read_heartbeat()
            if self.world.now_s - self.lived_s >= 10.0:
                self.lived_s = self.world.now_s
                self.dir.write_lived(self.world.now_s - self.began_s)
            is_progressing = self.has_met and self.world.now_s - self.progressed_s < 10.0
            if is_progressing and self.world.now_s - self.heartbeat_s >= 10.0:
                self.heartbeat_s = self.world.now_s
                self.dir.write_heartbeat(self.world.now_s - self.began_s)
        except OSError:
            has_met, heartbeat = True, self.world.now_s
        verdict, why = self.watch.verdict(self.world.now_s, self.asked, has_met, heartbeat)
        if verdict is Outcome.PAUSED and self.asked is not Outcome.PAUSED:
            self.asked = Outcome.PAUSED
            self._end_after_grace(why)
        if has_met and self.world.now_s - self.progressed_s > _WATCHDOG_S:
            self._end(Failure.INTERRUPTED, "no progress: another rank or its node hangs", 14)
            return
        self.world.after(_TICK_S, self._supervise)

    def ask(self, outcome: Outcome) -> None:
        if outcome is not Outcome.PAUSED:
            self.verdict = outcome
        if outcome is Outcome.PAUSED and self.asked is not Outcome.PAUSED:
            self.asked = outcome
            self.world.after(
                self.request.grace_s, lambda: self._end(Failure.INTERRUPTED, "the driver asked for it", 143)
            )

    def runner_is_gone(self) -> None:
        if self.is_over:
            return
        self.asked = Outcome.PAUSED
        self._end_after_grace("its runner is gone")

    def _end_after_grace(self, why: str) -> None:
        self.world.after(self.request.grace_s, lambda: self._end(Failure.INTERRUPTED, why, 143))

    def freeze(self, seconds: float) -> None:
        self.frozen_until_s = max(self.frozen_until_s, self.world.now_s + seconds)
        self.says_its_time = False

    def vanish(self) -> None:
        """Killed, with no word."""
        if self.is_over:
            return
        if self.world.random.random() < 0.3 and self.spec is not None:
            self.files.append_torn(
                self.dir.path / "metrics.jsonl", b'{"epoch": 1, "train_loss": 0.5, "val_loss": 0.25}'
            )
        self.world.log(self.who, "is killed")
        self._leave()

    def _leave(self) -> None:
        self.is_over = True
        self.runner.driver.universe.ranks_end(self)
        if self.runner.attempt is self:
            self.runner.attempt = None

    # The ranks.

    def _meet(self) -> None:
        if self._has_to_wait(self._meet):
            return
        try:
            self.dir.record_rank_began()
            if self.runner.job.is_bad:
                self._end(Failure.UNUSABLE_ALLOCATION, "rank 1 has no GPU of its own", 3)
                return
            self.spec = TrialDir(self.request.trial_dir, self.files).read_spec()
            self.dir.write_communicator(replace(REPORT, spec_sha256=self._owner()[1]))
            self._load()
        except OSError as error:
            self._end(Failure.UNUSABLE_ALLOCATION, f"{error}", 3)
            return
        self.progressed_s = self.world.now_s
        self._train()

    def _load(self) -> None:
        for path in self.dir.trial.checkpoints():
            try:
                written = json.loads(self.files.read(path) or b"{}")
            except ValueError:
                self.world.log(self.who, f"{path.parent.name}/{path.name} is not whole")
                continue
            if not written:
                continue
            assert self.spec is not None
            if written["owner"] != self._owner() and not LET_WRONG_CHECKPOINTS_PASS:
                self._end(Failure.BAD_CHECKPOINT, f"{path} is another trial's", 6)
                return
            self.progress = _Progress(
                [from_plain(EpochMetrics, metrics) for metrics in written["history"]], written["batches"]
            )
            return

    def _owner(self) -> list[str]:
        assert self.spec is not None
        return [self.spec.study_uuid, TrialDir(self.request.trial_dir, self.files).spec_sha256()]

    def _train(self) -> None:
        """One loader batch."""
        if self.is_over or self._has_to_wait(self._train):
            return
        assert self.spec is not None
        try:
            if len(self.progress.history) >= self.spec.epochs:
                self._finish(Outcome.COMPLETED)
                return
            if self.spec.world_size_at(len(self.progress.history)) != self.request.layout.world_size:
                self._finish(Outcome.HELD)
                return
            if self.world.chance(0.004):
                self._end(Failure.CRASHED, "Segmentation fault", 139)
                return
            if self.world.chance(0.002):
                self._end(Failure.OUT_OF_MEMORY, "the kernel killed a process of this job because memory ran out", 137)
                return
            if self.world.chance(0.002):
                self.world.log(self.who, "hangs")
                self.says_its_time = False
                return
            if self.asked is Outcome.PAUSED:
                self._save()
                self._finish(Outcome.PAUSED)
                return
            self.progress.batches += 1
            if self.progress.batches == _BATCHES_PER_EPOCH:
                self._end_epoch()
                if self.verdict is not None and len(self.progress.history) < self.spec.epochs:
                    self._finish(self.verdict)
                    return
        except OSError as error:
            failure = Failure.DISK_FULL if error.errno == 28 else Failure.UNUSABLE_ALLOCATION
            self._end(failure, str(error), 5 if failure is Failure.DISK_FULL else 3)
            return
        self.progressed_s = self.world.now_s
        self.world.after(self.world.between(0.8, 1.2) * _BATCH_S, self._train)

    def _end_epoch(self) -> None:
        assert self.spec is not None
        epoch = len(self.progress.history)
        value = score(self.spec, epoch)
        batch_size = self.spec.scaled_batch(16, self.request.layout.world_size)
        metrics = EpochMetrics(epoch, 1.0, 1.0, value, value / 2, batch_size, 0.1, 4, 64, 10.0, 1.0, 3 * _BATCH_S)
        self.runner.driver.universe.note_trained(self.spec, epoch, value)
        self.progress = _Progress([*self.progress.history, metrics])
        self.dir.append_metrics(metrics)
        self.runner.tell_epoch(self.request, metrics)
        self._save()

    def _save(self) -> None:
        content = {
            "owner": self._owner(),
            "history": [to_plain(metrics) for metrics in self.progress.history],
            "batches": self.progress.batches,
        }
        self.files.write_atomically(self.dir.checkpoint_path, json.dumps(content).encode())

    def _has_to_wait(self, again) -> bool:
        if self.is_over:
            return True
        if self.world.now_s < self.frozen_until_s:
            self.world.after(self.frozen_until_s - self.world.now_s, again)
            return True
        return False

    def _finish(self, outcome: Outcome) -> None:
        history = tuple(self.progress.history)
        owner = self._owner()[1]
        self.dir.write_result(TrialResult(outcome, len(history), "", history, self.progress.batches, owner))
        self._end(None, "", 0)

    def _end(self, failure: Failure | None, why: str, exit_code: int) -> None:
        """The ranks have ended; the runner, if it lives, tells how."""
        if self.is_over:
            return
        self.world.log(self.who, f"ends: {failure or 'result'} {why}")
        runner, wall_s = self.runner, self.world.now_s - self.began_s
        try:
            self.dir.write_exit(ExitRecord(exit_code, wall_s))
        except OSError:
            self.says_its_time = False
        self._leave()
        if runner.is_gone:
            return
        record = EndRecord(failure, f"{why} (exit code {exit_code})" if failure else "", exit_code, wall_s)
        with suppress(OSError):
            self.dir.write_end(record)
        try:
            end = self.dir.end(failure or Failure.CRASHED, record.reason or "it left no result", exit_code, wall_s)
        except OSError as error:
            end = AttemptEnd(None, Failure.INTERRUPTED, f"its files cannot be read: {error}", exit_code, wall_s)
        json.loads(to_json(end))
        runner.tell_end(self.request, end)
