"""Start a study, or go on with it: the same command again continues where the database stands."""

from __future__ import annotations

import sys
from pathlib import Path

# `python study/run.py` puts study/ first on the path, where this project's own folders cannot be found.
_ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(_ROOT)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from rich.console import Console  # noqa: E402

from storage.protocol.files import is_disk_full  # noqa: E402
from storage.protocol.variables import STORAGE_URL  # noqa: E402
from study.config import CONFIGS_DIR, StudyConfig, load_config  # noqa: E402

if TYPE_CHECKING:
    from cluster.pool import Pool
    from cluster.slurm.job import StudyJobs
    from storage.database.lease import StudyLease
    from study.plan import StudyPlan

_EXIT_NO_TRIAL_COMPLETED = 1
_EXIT_BAD_INPUT = 2
_RELEASE_WITHIN_S = 4.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(argv: list[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    console = Console()
    try:
        config = load_config(arguments.config, _overrides(arguments))
        return _run(config, arguments, console)
    except KeyboardInterrupt:
        # Before there was a trial to pause.
        return 128 + signal.SIGINT
    except (ValueError, OSError, RuntimeError) as error:
        if not _is_expected(error):
            raise
        advice = "; make room, then run the same command to go on." if is_disk_full(error) else ""
        Console(stderr=True).print(
            f"error: {error}{advice}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        return _EXIT_BAD_INPUT


def _run(config: StudyConfig, arguments: argparse.Namespace, console: Console) -> int:
    # Imported here: Optuna and Dask take seconds, and --help or a bad config need neither.
    from cluster.profile import available_cores, check_complete, load_site
    from storage.database.endpoint import check_connection, insecurity, parse_public_url
    from study import dry_run, preflight
    from study.plan import StudyPlan
    from study.samplers import check_sampler

    jobs = [] if arguments.jobs is None else [f"max_concurrent_trials={arguments.jobs}"]
    site = load_site(arguments.site, [*arguments.site_set, *jobs])
    check_sampler(config.study.sampler)
    url = parse_public_url(*_storage_url(config, arguments))
    plan = StudyPlan.make(config, site, available_cores(), url)

    def say(text: str) -> None:
        console.print(f"note: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    if (risk := insecurity(url)) is not None:
        say(risk)
    if arguments.dry_run:
        preflight.check(plan, say, build=False)
        dry_run.describe(plan, _job_script(plan), console)
        return 0
    check_complete(site)
    # Before the preflight, which takes longer and has no use for the password.
    check_connection(url)
    preflight.check(plan, say)
    return _run_study(plan, arguments, console, say)


def _run_study(plan: StudyPlan, arguments: argparse.Namespace, console: Console, say: Callable[[str], None]) -> int:
    import optuna
    from optuna.trial import TrialState

    from cluster import private_network
    from storage.database.calls import ThreadedCalls
    from storage.database.endpoint import as_storage_errors, folder_of, open_storage, public_url
    from storage.database.lease import DatabaseLeaseStore, StudyLease, keep_renewing, this_driver
    from storage.protocol.clock import SYSTEM_CLOCK
    from study.display import LiveDisplay, PlainDisplay
    from study.ledger import DatabaseLostError, Ledger
    from study.loop import StudyLoop
    from study.opening import bind_folder, open_study, retry_failed
    from study.report import closing_table
    from study.samplers import sampler_of
    from study.stop_request import StopRequest

    settings, url = plan.config.study, plan.database
    # Optuna writes to the terminal by itself, into the middle of the live table.
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    # First of all: a database that is out of reach leaves no folder behind.
    storage = open_storage(url)
    sampler_for = partial(sampler_of, settings, enqueue=plan.config.enqueue)
    with as_storage_errors(url):
        lease = StudyLease(DatabaseLeaseStore(storage.engine, plan.name), SYSTEM_CLOCK, this_driver(), time.sleep)
        lease.acquire(say)
    with contextlib.ExitStack() as stack:
        stack.callback(_release, lease)
        stack.enter_context(keep_renewing(lease))
        with as_storage_errors(url):
            study = open_study(storage, plan, sampler_for)
            study_uuid = bind_folder(study, plan.folder, folder_of(url), arguments.adopt, say)
            if arguments.retry_failed and (again := retry_failed(storage, study)):
                say(f"trying again: trial {', '.join(map(str, again))}")
                study = open_study(storage, plan, sampler_for)
        _log_to(plan.folder / "driver.log")
        # Not before: until here there is no trial to pause, and Ctrl-C ends whatever is waited for.
        stop = StopRequest()
        epochs = plan.config.training.epochs
        view = LiveDisplay(console, plan.name, epochs) if console.is_terminal else PlainDisplay(console, epochs)
        ledger = Ledger(
            study,
            storage,
            plan.config.search_space,
            settings.objective,
            ThreadedCalls(),
            lease,
            SYSTEM_CLOCK,
            view.notice,
            stop.is_requested,
            stop.pause,
        )
        if plan.layout.nodes == 1 and plan.site.launcher == "mpirun" and not private_network.is_available():
            say("this kernel gives no private networks, so mpirun's control ports are open to others")
        pool = _open_pool(plan)
        trials = []
        try:
            with pool, view:
                loop = StudyLoop(plan, study_uuid, ledger, pool, view, stop, SYSTEM_CLOCK)
                loop.run()
            trials = ledger.trials()
            console.print(closing_table(plan.name, trials, public_url(url), loop.describe_spent()))
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
        return 128 + stop.number
    return 0 if any(trial.state is TrialState.COMPLETE for trial in trials) else _EXIT_NO_TRIAL_COMPLETED


def _release(lease: StudyLease) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from storage.database.calls import ThreadedCalls

    # The next driver waits for its end then.
    with contextlib.suppress(SQLAlchemyError, OSError):
        ThreadedCalls().call(lease.release, lambda waited_s: waited_s >= _RELEASE_WITHIN_S)


def _open_pool(plan: StudyPlan) -> Pool:
    from cluster.local_pool import LocalPool

    if plan.site.slurm is None:
        return LocalPool(plan.slots)
    from cluster.slurm.pool import open_pool

    return open_pool(plan.site, plan.site.slurm, _study_jobs(plan))


def _job_script(plan: StudyPlan) -> str | None:
    if plan.site.slurm is None:
        return None
    from cluster.slurm.pool import job_script

    return job_script(plan.site, plan.site.slurm, _study_jobs(plan))


def _study_jobs(plan: StudyPlan) -> StudyJobs:
    from cluster.slurm.job import StudyJobs

    return StudyJobs(plan.name, plan.folder)


def _storage_url(config: StudyConfig, arguments: argparse.Namespace) -> tuple[str, str]:
    """The database URL and where it was said: command line, environment, config, or the study's own file."""
    if arguments.storage:
        return arguments.storage, "--storage"
    if os.environ.get(STORAGE_URL):
        return os.environ[STORAGE_URL], STORAGE_URL
    if config.study.storage:
        return config.study.storage, "study.storage"
    return f"sqlite:///{config.study.runs_dir / config.study.name / 'study.db'}", "study.runs_dir"


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    # A log that cannot be written is told once, by whatever else then cannot be written.
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # So does Dask, of workers that are lost, which is the pool's to tell.
    dask = logging.getLogger("distributed")
    dask.handlers.clear()
    dask.propagate = True
    dask.setLevel(logging.WARNING)


def _is_expected(error: BaseException) -> bool:
    """Whether the error is one that this project words for a person, or a plain failure of the file system."""
    own = type(error).__module__.partition(".")[0] in {"study", "storage", "cluster"}
    return own or isinstance(error, OSError)


def _overrides(arguments: argparse.Namespace) -> list[str]:
    # Quoted: a name may be a number.
    name = None if arguments.name is None else json.dumps(arguments.name)
    named = {"study.trials": arguments.trials, "study.name": name}
    flags = [f"{key}={value}" for key, value in named.items() if value is not None]
    if arguments.deterministic:
        flags.append("training.deterministic=true")
    return [*arguments.set, *flags]


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study/run.py", description=__doc__, epilog="See README.md for configs, sites and the dashboard."
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIGS_DIR / "demo.toml", metavar="FILE", help="the study; default: demo.toml"
    )
    parser.add_argument(
        "--site", default="local", metavar="NAME", help="a file of cluster/sites, or a path; default: local"
    )
    parser.add_argument(
        "--site-set", action="append", default=[], metavar="KEY=VALUE", help="override any value of the site"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="trials at once, with Slurm: jobs; default: the site's")
    parser.add_argument("--storage", metavar="URL", help="database, without password; default: SQLite in runs/")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of the study in all, earlier runs included")
    parser.add_argument("--name", metavar="NAME", help="of the study; the same as --set study.name=NAME")
    parser.add_argument("--deterministic", action="store_true", help="bit-identical repetitions; slower")
    parser.add_argument(
        "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override any value of the config"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again, with their parameters")
    parser.add_argument(
        "--adopt", action="store_true", help="take over a folder of trials that another database knew, or lost files"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
