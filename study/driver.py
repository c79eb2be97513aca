"""Drives a study to its end: the one way, for study/run.py, study/evaluate.py and Python programs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from cluster import private_network
from cluster.local_pool import LocalPool
from cluster.pool import Pool
from cluster.profile import available_cores, check_complete, load_site
from storage.database.calls import ThreadedCalls
from storage.database.endpoint import (
    StorageError,
    as_storage_errors,
    check_connection,
    folder_of,
    insecurity,
    open_storage,
    parse_public_url,
    public_url,
)
from storage.database.lease import DatabaseLeaseStore, StudyLease, keep_renewing, this_driver
from storage.protocol.clock import SYSTEM_CLOCK
from storage.protocol.variables import STORAGE_URL
from study import dry_run, preflight
from study.closing_table import closing_table
from study.config import StudyConfig
from study.display import LiveDisplay, PlainDisplay
from study.forecast.measurements import Conditions, measured_earlier, measured_so_far
from study.forecast.outlook import Outlook
from study.ledger import DatabaseLostError, Ledger
from study.loop import StudyLoop
from study.notify import Notifier
from study.opening import bind_folder, open_study, record_opening, retry_failed
from study.plan import StudyPlan
from study.provenance import describe_opening
from study.replay import describe_replay, recorded_configurations
from study.samplers import check_sampler, sampler_of
from study.stop_request import StopRequest
from study.warm_start import earlier_trials

if TYPE_CHECKING:
    from cluster.slurm.job import StudyJobs

_EXIT_NO_TRIAL_COMPLETED = 1
_RELEASE_WITHIN_S = 4.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True)
class DriverEnd:
    """How a driver ended that was not ended by an error."""

    trials: Sequence[FrozenTrial]
    """All of the study's. Empty where a stop came while the database was away."""
    stopped_by: signal.Signals | None
    """The study is paused; None: it has all of its trials."""

    @property
    def exit_code(self) -> int:
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 0 if any(trial.state is TrialState.COMPLETE for trial in self.trials) else _EXIT_NO_TRIAL_COMPLETED


def make_plan(
    config: StudyConfig,
    site: str = "local",
    site_overrides: Sequence[str] = (),
    jobs: int | None = None,
    storage: str | None = None,
) -> StudyPlan:
    """Decide what to train, where and in which database. Stores and starts nothing.

    Args:
        site: A file of cluster/sites, or a path.
        site_overrides: KEY=VALUE of the site.
        jobs: Trials at once; None: the site's.
        storage: URL of the database, without password; None: that of SWITCHYARD_STORAGE, of the config, or a SQLite
            file in the study's folder.

    Raises:
        SiteError, SamplerError, StorageError, TablesError: There is no such site, sampler or database.
    """
    overrides = [*site_overrides, *([] if jobs is None else [f"max_concurrent_trials={jobs}"])]
    profile = load_site(str(site), overrides)
    check_sampler(config.study)
    return StudyPlan.make(config, profile, available_cores(), parse_public_url(*_storage_url(config, storage)))


def noting_on(console: Console) -> Callable[[str], None]:
    """What a person should know, on this console."""

    def say(text: str) -> None:
        console.print(f"note: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    return say


def rehearse(plan: StudyPlan, console: Console, forecast_from: Sequence[str] = ()) -> None:
    """Check the plan without building a model, and print what `drive` would do.

    Args:
        forecast_from: See `drive`.

    Raises:
        ConfigError: With the trainer's own words.
        ForecastError, StorageError: An earlier study is not there, or says nothing of this one.
    """
    say = noting_on(console)
    _warn_of_insecurity(plan, say)
    replay = describe_replay(plan.config, earlier_trials(plan.config))
    conditions = Conditions.of(plan, available_cores())
    measured = measured_earlier(plan, conditions, forecast_from)
    finished = 0
    try:
        own, finished = measured_so_far(plan, conditions)
        measured += own
    except StorageError as error:
        # A dry run may come before there is a database.
        say(f"{error} So this study's own trials, should there be any, are in no forecast.")
    outlook = Outlook(plan, conditions, preflight.check(plan, say, build=False), measured)
    forecast = outlook.describe(finished, datetime.now(UTC))
    dry_run.describe(plan, _job_script(plan), forecast, console, replay)


def drive(
    plan: StudyPlan,
    console: Console,
    *,
    adopt: bool = False,
    retry_failed_trials: bool = False,
    attributes: Mapping[str, Any] | None = None,
    forecast_from: Sequence[str] = (),
) -> DriverEnd:
    """Check the plan, then run the study or go on with it, until it has all of its trials or is told to stop.

    The signals that pause a study are handled from where there is a trial to pause, if this is the main thread.

    Args:
        adopt: See `bind_folder`.
        retry_failed_trials: Run failed trials again, with their numbers and parameters.
        attributes: Of the study, should it be a new one.
        forecast_from: Earlier studies, STUDY or STUDY@URL, whose times say what this one will take before it has
            trials of its own.

    Raises:
        ValueError, OSError, RuntimeError: One of the project's own errors, worded for a person: bad input, or what has
            halted the study. The same call goes on once it is put right.
    """
    say = noting_on(console)
    with Notifier.from_environment(plan.config.ends_to_tell(), os.environ, say) as notifier:
        _warn_of_insecurity(plan, say)
        check_complete(plan.site)
        # Before the preflight, which takes longer and has no use for the password.
        check_connection(plan.database)
        settings, earlier = plan.config.study, earlier_trials(plan.config)
        replayed = recorded_configurations(plan.config)
        conditions = Conditions.of(plan, available_cores())
        measured = measured_earlier(plan, conditions, forecast_from)
        outlook = Outlook(plan, conditions, preflight.check(plan, say), measured)
        sampler = sampler_of(settings, plan.config.search_space, plan.config.enqueue, earlier, replayed)
        with _optuna_is_silent():
            return _drive(plan, console, say, notifier, sampler, outlook, adopt, retry_failed_trials, attributes or {})


def _drive(
    plan: StudyPlan,
    console: Console,
    say: Callable[[str], None],
    notifier: Notifier,
    sampler: optuna.samplers.BaseSampler,
    outlook: Outlook,
    adopt: bool,
    retry_failed_trials: bool,
    attributes: Mapping[str, Any],
) -> DriverEnd:
    settings, url = plan.config.study, plan.database
    # First of all: a database that is out of reach leaves no folder behind.
    storage = open_storage(url)
    opening = describe_opening(plan.config.dataset.options, datetime.now(UTC))
    with as_storage_errors(url):
        lease = StudyLease(DatabaseLeaseStore(storage.engine, plan.name), SYSTEM_CLOCK, this_driver(), time.sleep)
        lease.acquire(say)
    with contextlib.ExitStack() as stack:
        stack.callback(_release, lease)
        stack.enter_context(keep_renewing(lease))
        with as_storage_errors(url):
            study = open_study(storage, plan, sampler, attributes)
            study_uuid = bind_folder(study, plan.folder, folder_of(url), adopt, say)
            if retry_failed_trials and (again := retry_failed(storage, study)):
                say(f"trying again: trial {', '.join(map(str, again))}")
                study = open_study(storage, plan, sampler)
            record_opening(study, opening)
        stack.enter_context(_logging_to(plan.folder / "driver.log"))
        # Not before: until here there is no trial to pause, and Ctrl-C ends whatever is waited for.
        stop = StopRequest()
        epochs = plan.config.training.epochs
        view = LiveDisplay(console, plan.name, epochs) if console.is_terminal else PlainDisplay(console, epochs)
        ledger = Ledger(
            study,
            storage,
            plan.config.search_space,
            settings.goals,
            settings.limit,
            ThreadedCalls(),
            lease,
            SYSTEM_CLOCK,
            view.notice,
            stop.is_requested,
            stop.pause,
            plan.site.kg_co2e_per_kwh,
        )
        if plan.layout.nodes == 1 and plan.site.launcher == "mpirun" and not private_network.is_available():
            say("this kernel gives no private networks, so mpirun's control ports are open to others")
        pool = _open_pool(plan)
        trials: Sequence[FrozenTrial] = []
        try:
            with notifier.tells_ends_of(plan, stop, lambda: study.get_trials(deepcopy=False)), pool, view:
                loop = StudyLoop(plan, study_uuid, ledger, pool, view, stop, SYSTEM_CLOCK, outlook=outlook)
                loop.run()
            loop.settle()
            trials = ledger.trials()
            console.print(closing_table(plan.name, trials, public_url(url), loop.describe_spent(), settings.goals))
        except DatabaseLostError as error:
            # Whoever wants an end does not wait for the database, and has asked for no table.
            if not stop.is_requested():
                raise
            say(str(error))
        finally:
            if left := pool.left_behind():
                say(f"could not be given back, and may still run: {', '.join(left)}")
    if stop.is_requested():
        console.print(f"Stopped by {stop.signal_name}. Run the same command to go on.", highlight=False)
        return DriverEnd(trials, signal.Signals(stop.number))
    return DriverEnd(trials, None)


def _warn_of_insecurity(plan: StudyPlan, say: Callable[[str], None]) -> None:
    if (risk := insecurity(plan.database)) is not None:
        say(risk)


def _release(lease: StudyLease) -> None:
    # The next driver waits for its end then.
    with contextlib.suppress(SQLAlchemyError, OSError):
        ThreadedCalls().call(lease.release, lambda waited_s: waited_s >= _RELEASE_WITHIN_S)


def _open_pool(plan: StudyPlan) -> Pool:
    if plan.site.slurm is None:
        return LocalPool(plan.slots)
    # Imported here: Dask takes a second, and one machine needs none of it.
    from cluster.slurm.pool import open_pool

    return open_pool(plan.site, plan.site.slurm, _study_jobs(plan))


def _job_script(plan: StudyPlan) -> str | None:
    if plan.site.slurm is None:
        return None
    from cluster.slurm.pool import job_script

    return job_script(plan.site, plan.site.slurm, _study_jobs(plan), plan.layout.nodes)


def _study_jobs(plan: StudyPlan) -> StudyJobs:
    from cluster.slurm.job import StudyJobs

    return StudyJobs(plan.name, plan.folder)


def _storage_url(config: StudyConfig, given: str | None) -> tuple[str, str]:
    """The database URL and where it was said: by the caller, environment, config, or the study's own file."""
    if given:
        return given, "--storage"
    if os.environ.get(STORAGE_URL):
        return os.environ[STORAGE_URL], STORAGE_URL
    if config.study.storage:
        return config.study.storage, "study.storage"
    return f"sqlite:///{config.study.runs_dir / config.study.name / 'study.db'}", "study.runs_dir"


@contextlib.contextmanager
def _optuna_is_silent() -> Iterator[None]:
    """Optuna writes to the terminal by itself, into the middle of the live table; now to the study's log."""
    # First, because Optuna attaches its handler when it is asked for anything.
    level = optuna.logging.get_verbosity()
    with _changed_logger("optuna", [], level):
        yield


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Everything that is logged goes into this file alone, until the block ends."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    raises = logging.raiseExceptions
    # A log that cannot be written is told once, by whatever else then cannot be written.
    logging.raiseExceptions = False
    # Dask writes to the terminal, too, of workers that are lost, which is the pool's to tell.
    with _changed_logger("", [handler], logging.INFO), _changed_logger("distributed", [], logging.WARNING):
        try:
            yield
        finally:
            handler.close()
            logging.raiseExceptions = raises


@contextlib.contextmanager
def _changed_logger(name: str, handlers: Sequence[logging.Handler], level: int) -> Iterator[None]:
    """A program's own logging is as before once the study has ended."""
    logger = logging.getLogger(name)
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:], logger.propagate = handlers, True
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
