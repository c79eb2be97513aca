"""A study in its world, with a person who starts the command again whenever it has ended too early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState
from sqlalchemy.engine import make_url

from cluster.batch_system import JobState
from cluster.pool import PoolError
from cluster.profile import SiteProfile, SlurmSettings
from storage.database import schema
from storage.database.lease import LeaseError, LeaseRow
from storage.protocol.records import TrialSpec
from study.config import CONFIGS_DIR, StudyConfig, load_config
from study.ledger import DatabaseLostError
from study.loop import StudyHaltedError
from study.opening import StudyMismatchError
from study.plan import StudyPlan
from tests.simulation import pruning
from tests.simulation.cluster import NODES_PER_TRIAL, SimulatedCluster, SimulatedJob
from tests.simulation.database import Database
from tests.simulation.driver import SimulatedDriver
from tests.simulation.files import STALE_S, SharedFiles
from tests.simulation.runner import score
from tests.simulation.world import InvariantError, World

if TYPE_CHECKING:
    from tests.simulation.runner import _Attempt

TRIALS, EPOCHS, SLOTS = 8, 6, 2
GRACE_S = 15.0
HEALS_AT_S = 2000.0
# After it has healed: what is left of the study, one attempt after the other, and the longest patience of the driver.
MUST_END_S = HEALS_AT_S + 7200.0
# A supervisor looks at its fence every two seconds here; what it sees may be stale, and it kills a moment later.
FENCING_BOUND_S = 2.0 + STALE_S + 2.0
# Of the time that an attempt is booked with, where nobody saw its end: a heartbeat, and until the kill.
BOOKED_WITHIN_S = 75.0

_EXPECTED = (DatabaseLostError, StudyHaltedError, StudyMismatchError, LeaseError, PoolError, OSError)
_SITE = SiteProfile(
    name="simulated",
    launcher="srun",
    nodes_per_trial=NODES_PER_TRIAL,
    ranks_per_node=2,
    cpus_per_rank=1,
    max_concurrent_trials=SLOTS,
    checkpoint_grace_s=GRACE_S,
    rendezvous_timeout_s=60.0,
    heartbeat_timeout_s=100.0,
    slurm=SlurmSettings(walltime="00:06:40", interface="lo"),
)


def _load_config(*pruner: str) -> StudyConfig:
    overrides = [f"study.trials={TRIALS}", f"training.epochs={EPOCHS}", 'study.name="simulated"', *pruner]
    return load_config(CONFIGS_DIR / "demo.toml", overrides)


_ASHA = ("pruner.name=asha", "pruner.rungs=[1, 3]", "pruner.factor=2")
_PROMOTES = (*_ASHA, "pruner.promotes=true")
_GROWS = (*_PROMOTES, "resources.nodes_per_rung=[1, 2, 4]")
_CONFIGS = tuple(_load_config(*options) for options in ((), _ASHA, _PROMOTES, (), _ASHA, _GROWS))
"""Taken in turn by the seeds."""


class Universe:
    """One seed's."""

    def __init__(self, seed: int, verbose: bool = False) -> None:
        self.world = World(seed, HEALS_AT_S, verbose)
        self.shared = SharedFiles(self.world)
        self.database = Database(self.world)
        self.cluster = SimulatedCluster(self.world)
        folder = Path("/shared/runs/simulated")
        url = make_url("sqlite:////shared/runs/simulated/study.db")
        self.plan = replace(StudyPlan.make(_CONFIGS[seed % len(_CONFIGS)], _SITE, 4, url), folder=folder)
        self.drivers: list[SimulatedDriver] = []
        self.person_adopts = False
        self.longest_end_s = 200.0
        self._trained: set[tuple[int, str, int, float]] = set()
        self._acting: dict[int, list[_Attempt]] = {}
        self._held_s: dict[tuple[int, int, str], float] = {}
        self._silent: set[tuple[int, int, str]] = set()
        self._databases: dict[int, str] = {}
        """From an attempt to the database that knows it."""
        self._stopped_s = 0.0
        """For so long, drivers have not seen what happened."""
        self._is_complete = False

    def run(self) -> None:
        """
        Raises:
            InvariantError: Something happened that must not.
        """
        world = self.world
        self._start_driver()
        world.after(world.between(5.0, 100.0), self._misfortune)
        world.after(5.0, self._watch)
        if not world.run_until(lambda: self._is_complete, MUST_END_S):
            raise InvariantError("the study has not ended, long after the world has healed")
        self._require_right_results()
        # Nothing may run on after it.
        world.advance(120.0)
        named = {name for driver in self.drivers for name in driver.left_behind}
        unnamed = [job for job in self.cluster.alive() if not {f"job {job.job_id}", f"job {job.name}"} & named]
        outlive = [job.job_id for job in unnamed]
        if outlive and "any job of an earlier driver" not in self.drivers[-1].left_behind:
            raise InvariantError(f"job {', '.join(outlive)} outlives the study")

    # The person.

    def _start_driver(self) -> None:
        node = self.world.random.choice(["login1", "login2"])
        driver = SimulatedDriver(self, len(self.drivers) + 1, node)
        self.drivers.append(driver)
        driver.begin()

    def _watch(self) -> None:
        """Look after the command from time to time."""
        world = self.world
        running = [driver for driver in self.drivers if driver.is_running]
        for driver in running:
            if world.now_s > driver.ends_by_s:
                raise InvariantError(f"{driver.name} has not ended {self.longest_end_s:.0f} s after a signal")
        if not running:
            last = self.drivers[-1]
            if last.has_ended and self._has_all_trials() and last.error is None and not last.is_requested():
                self._is_complete = True
                return
            if isinstance(last.error, StudyMismatchError):
                self._heed(last.error)
            self._start_driver()
        elif world.chance(0.01):
            # Impatient, or on another login node.
            self._start_driver()
        world.after(world.between(5.0, 60.0), self._watch)

    def _heed(self, error: StudyMismatchError) -> None:
        """Do what the message says: move the folder away, or adopt it."""
        if "Move" in str(error) and self.world.random.random() < 0.5:
            self.world.log("person", "moves the folder away")
            self._move_folder_away()
        else:
            self.world.log("person", "gives --adopt from now on")
            self.person_adopts = True

    def _move_folder_away(self) -> None:
        from tests.simulation.files import MachineFiles

        self.shared.is_full = False
        files = MachineFiles(self.shared, "login1")
        files.rename(self.plan.folder, self.plan.folder.with_name(f"moved-{self.world.now_s:.0f}"))

    def new_uuid(self) -> str:
        return f"{self.world.random.getrandbits(64):016x}"

    def require_study_is_known(self) -> None:
        """The config is that of the study at any time."""

    def require_expected(self, error: BaseException) -> None:
        if not isinstance(error, _EXPECTED) and type(error).__name__ != "StorageInternalError":
            raise error

    def is_driver_alive(self, row: LeaseRow) -> bool:
        return any(driver.name == row.holder and driver.is_alive for driver in self.drivers)

    # The world.

    def _misfortune(self) -> None:
        world = self.world
        if world.is_healed:
            self._heal()
            return
        world.random.choice(
            [
                self._lose_job,
                self._lose_job,
                self._cancel_job,
                self._cut_off_job,
                self._hang_runner,
                self._kill_ranks,
                self._freeze_ranks,
                self._kill_driver,
                self._kill_driver,
                self._signal_driver,
                self._stop_driver,
                self._lose_database_for_a_while,
                self._stall_database,
                self._lose_controller,
                self._fill_disk,
                self._lose_database_for_good,
                self._damage_files,
            ]
        )()
        world.after(world.between(5.0, 120.0), self._misfortune)

    def _heal(self) -> None:
        self.world.log("world", "has healed")
        self.shared.is_full = False
        self.database.away_until_s = self.database.stalled_until_s = self.cluster.away_until_s = 0.0

    def _some_job(self) -> SimulatedJob | None:
        running = [job for job in self.cluster.alive() if job.state is JobState.RUNNING]
        return self.world.random.choice(running) if running else None

    def _lose_job(self) -> None:
        if (job := self._some_job()) is not None:
            self.cluster.end(job, "NODE_FAIL", politely=False)

    def _cancel_job(self) -> None:
        if (job := self._some_job()) is not None:
            self.cluster.end(job, "PREEMPTED")

    def _cut_off_job(self) -> None:
        if (job := self._some_job()) is not None and job.runner is not None:
            job.runner.be_cut_off(self.world.between(20.0, 200.0))

    def _hang_runner(self) -> None:
        if (job := self._some_job()) is not None and job.runner is not None:
            job.runner.hang()

    def _kill_ranks(self) -> None:
        job = self._some_job()
        if job is not None and job.runner is not None and job.runner.attempt is not None:
            from storage.protocol.attempts import Failure

            job.runner.attempt._end(Failure.INTERRUPTED, "ended by SIGKILL", 137)

    def _freeze_ranks(self) -> None:
        job = self._some_job()
        if job is not None and job.runner is not None and job.runner.attempt is not None:
            job.runner.attempt.freeze(self.world.between(5.0, 120.0))

    def _running_driver(self) -> SimulatedDriver | None:
        return next((driver for driver in self.drivers if driver.is_running), None)

    def _kill_driver(self) -> None:
        if (driver := self._running_driver()) is not None:
            driver.kill()

    def _signal_driver(self) -> None:
        if (driver := self._running_driver()) is not None:
            driver.signal()

    def _stop_driver(self) -> None:
        if (driver := self._running_driver()) is not None:
            seconds = self.world.between(5.0, 300.0)
            self._stopped_s += seconds
            driver.stop_for(seconds)

    def _lose_database_for_a_while(self) -> None:
        self.database.away_until_s = self.world.now_s + self.world.between(1.0, 1200.0)
        self.world.log("database", f"is away until {self.database.away_until_s:.0f}")

    def _stall_database(self) -> None:
        self.database.stalled_until_s = self.world.now_s + self.world.between(1.0, 1200.0)
        self.world.log("database", f"does not answer until {self.database.stalled_until_s:.0f}")

    def _lose_controller(self) -> None:
        self.cluster.away_until_s = self.world.now_s + self.world.between(1.0, 120.0)

    def _fill_disk(self) -> None:
        self.shared.is_full = True
        self.world.log("world", "the disk is full")

        def make_room() -> None:
            self.shared.is_full = False

        self.world.after(self.world.between(5.0, 100.0), make_room)

    def _lose_database_for_good(self) -> None:
        if self.world.random.random() < 0.7 or self._running_driver() is not None:
            return
        self.world.log("database", "is lost, and the study begun anew with another seed")
        self.database.reset()
        study = self.plan.config.study.model_copy(update={"seed": self.world.random.randrange(10**6)})
        self.plan = replace(self.plan, config=self.plan.config.model_copy(update={"study": study}))
        # No misfortune of the batch system: its jobs are still there.
        self._held_s.clear()

    def _damage_files(self) -> None:
        """A file of a trial loses its end, as in a crash of the file server."""
        paths = [
            key
            for key in self.shared.versions
            if key.endswith(("metrics.jsonl", "heartbeat", "communicator.json", "checkpoint.npz"))
        ]
        if paths:
            path = Path(self.world.random.choice(paths))
            content = self.shared.truth(path)
            if content:
                self.world.log("world", f"{path.parent.name}/{path.name} is damaged")
                self.shared.put(path, "server", content[: len(content) // 2])

    # What must hold.

    def ranks_begin(self, attempt: _Attempt) -> None:
        if attempt.request.layout.nodes != attempt.runner.job.nodes:
            raise InvariantError(f"{attempt.who} is laid out for other nodes than its job has")
        self._require_no_more_ranks_than_there_are(attempt.runner.driver)
        pruning.require_no_standing_verdict(self.database, attempt.request.trial_number, self.world.now_s)
        self._acting.setdefault(attempt.request.trial_number, []).append(attempt)
        self._databases[id(attempt)] = str(id(self.database.storage))
        self.world.after(0.5, lambda: self._require_one_acting(attempt.request.trial_number))

    def _require_no_more_ranks_than_there_are(self, driver: SimulatedDriver) -> None:
        if (ranks := driver.ranks_under_way()) > self.plan.ranks_at_once:
            raise InvariantError(f"{driver.name} has {ranks} ranks under way, of {self.plan.ranks_at_once}")

    def ranks_end(self, attempt: _Attempt) -> None:
        self._acting[attempt.request.trial_number].remove(attempt)
        key = (attempt.request.trial_number, attempt.request.attempt_number, self._databases.pop(id(attempt)))
        self._held_s[key] = self.world.now_s - attempt.began_s
        if not attempt.says_its_time:
            self._silent.add(key)

    def _require_one_acting(self, trial: int) -> None:
        """After the fencing bound, of several attempts only the newest acts. A frozen one does not act."""
        acting = self._acting.get(trial, [])
        if len(acting) < 2:
            return
        newest = max(acting, key=lambda attempt: attempt.request.attempt_number)
        since_s = newest.began_s
        for attempt in acting:
            overlap_s = self.world.now_s - max(since_s, attempt.frozen_until_s)
            if attempt is not newest and overlap_s > FENCING_BOUND_S:
                raise InvariantError(f"{attempt.who} acts {overlap_s:.0f} s beside {newest.who}")
        self.world.after(1.0, lambda: self._require_one_acting(trial))

    def note_trained(self, spec: TrialSpec, epoch: int, value: float) -> None:
        self._trained.add((spec.trial_number, str(spec.optimizer.options), epoch, value))

    def _has_all_trials(self) -> bool:
        studies = self.database.storage.get_all_studies()
        if not studies:
            return False
        trials = self.database.storage.get_all_trials(studies[0]._study_id, deepcopy=False)
        return len(trials) >= TRIALS and all(trial.state.is_finished() for trial in trials)

    def _require_right_results(self) -> None:
        storage = self.database.storage
        [study] = storage.get_all_studies()
        trials = storage.get_all_trials(study._study_id)
        if len(trials) != TRIALS:
            raise InvariantError(f"{len(trials)} trials, {TRIALS} were asked for")
        pruning.require_right_decisions(self.plan, trials)
        for trial in trials:
            record = schema.TrialRecord.read(trial.user_attrs)
            if record is None:
                raise InvariantError(f"trial {trial.number} is over and has no record")
            if trial.state is not TrialState.COMPLETE:
                continue
            spec = self.plan.spec(trial.number, trial.params, "")
            expected = score(spec, EPOCHS - 1)
            trained = (trial.number, str(spec.optimizer.options), EPOCHS - 1, expected)
            if trial.value != expected or trained not in self._trained:
                raise InvariantError(f"trial {trial.number} is told {trial.value}, its ranks produced {expected}")
            if trial.intermediate_values != {epoch: score(spec, epoch) for epoch in range(EPOCHS)}:
                raise InvariantError(f"trial {trial.number} has the epochs {trial.intermediate_values}")
            self._require_booked(trial.number, schema.read_attempts(trial.user_attrs), record)

    def _require_booked(self, number: int, rows: list[schema.AttemptRow], record: schema.TrialRecord) -> None:
        database = str(id(self.database.storage))
        used = {key: held_s for key, held_s in self._held_s.items() if key[0] == number and key[2] == database}
        for key, held_s in used.items():
            attempt = key[1]
            if attempt > len(rows):
                raise InvariantError(f"attempt {attempt} of trial {number} is not in the database")
            booked_s = rows[attempt - 1].wall_s
            too_little = booked_s < held_s - BOOKED_WITHIN_S and key not in self._silent
            too_much = booked_s > held_s + BOOKED_WITHIN_S + 60.0 + self._stopped_s and key not in self._silent
            if too_little or too_much:
                raise InvariantError(
                    f"attempt {number}/{attempt} held {held_s:.0f} s and is booked with {booked_s:.0f} s"
                )
        booked = sum(row.wall_s * (row.nodes or 0) for row in rows) / 3600
        if abs(booked - record.node_hours) > 1e-3:
            raise InvariantError(f"trial {number} is booked with {record.node_hours} node-hours, its attempts {booked}")
