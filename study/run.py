"""Start a study, or go on with it: the same command again continues where the database stands."""

from __future__ import annotations

import sys
from pathlib import Path

# `python study/run.py` puts study/ first on the path, where this project's own folders cannot be found.
_ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(_ROOT)

import argparse  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from rich.console import Console  # noqa: E402

from storage.trial_dir import is_disk_full  # noqa: E402
from study.config import CONFIGS_DIR, StudyConfig, load_config  # noqa: E402

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from cluster.jobqueue import StudyJobs
    from cluster.launchers import RankLayout
    from cluster.pool import WorkerPool
    from cluster.profile import SiteProfile

_EXIT_NO_TRIAL_COMPLETED = 1
_EXIT_BAD_INPUT = 2
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
        advice = "; make room and run the same command to go on." if is_disk_full(error) else ""
        Console(stderr=True).print(
            f"error: {error}{advice}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        return _EXIT_BAD_INPUT


def _run(config: StudyConfig, arguments: argparse.Namespace, console: Console) -> int:
    # Imported here: Optuna and Dask take seconds, and --help or a bad config need neither.
    from cluster.profile import available_cores, check_complete, load_site
    from storage.endpoint import parse_public_url, public_url
    from study.dry_run import describe
    from study.preflight import check_shared_parts
    from study.samplers import check_sampler

    jobs = [] if arguments.jobs is None else [f"max_concurrent_trials={arguments.jobs}"]
    profile = load_site(arguments.site, [*arguments.site_set, *jobs])
    cores = available_cores()
    layout, slots = profile.layout(cores), profile.concurrent_trials(cores)
    check_sampler(config.study.sampler)
    url = parse_public_url(*_storage_url(config, arguments))
    check_shared_parts(config, layout.world_size)
    if arguments.dry_run:
        describe(config, profile, layout, slots, public_url(url), _job_script(config, profile), console)
        return 0
    check_complete(profile)
    return _run_study(config, profile, layout, slots, url, console)


def _run_study(
    config: StudyConfig, profile: SiteProfile, layout: RankLayout, slots: int, url: URL, console: Console
) -> int:
    from optuna.trial import TrialState

    from cluster import private_network
    from storage.endpoint import folder_of, open_storage, public_url, worded_errors
    from storage.lease import hold_lease
    from study.display import LiveDisplay, PlainDisplay
    from study.ledger import Ledger, claim_study_dir, open_study
    from study.loop import StudyLoop
    from study.report import closing_table
    from study.samplers import build_sampler
    from study.stop_request import StopRequest

    settings = config.study
    # First of all: a database that is out of reach leaves no folder behind.
    storage = open_storage(url)
    with hold_lease(config.study_dir):
        _log_to(config.study_dir / "driver.log")
        with worded_errors(url):
            study = open_study(
                storage,
                settings.name,
                lambda finished: build_sampler(settings.sampler, settings.seed, finished),
                config.identity(layout.world_size),
            )
            claim_study_dir(study, config.study_dir, folder_of(url))
        epochs = config.training.epochs
        view = LiveDisplay(console, settings.name, epochs) if console.is_terminal else PlainDisplay(console, epochs)
        stop = StopRequest()
        ledger = Ledger(study, storage, view.notice, stop.event)
        if layout.nodes == 1 and profile.launcher == "mpirun" and not private_network.is_available():
            console.print(
                "warning: this kernel gives no private networks, so mpirun's control ports are open to others."
            )
        with _open_pool(config, profile, slots) as pool, view:
            StudyLoop(study, ledger, config, profile, layout, slots, pool, view).run(stop.is_requested)
        trials = ledger.trials()
    console.print(closing_table(settings.name, trials, public_url(url)))
    if stop.is_requested():
        console.print(f"Stopped by {stop.signal_name}. Run the same command to go on.", highlight=False)
        return 128 + stop.number
    return 0 if any(trial.state is TrialState.COMPLETE for trial in trials) else _EXIT_NO_TRIAL_COMPLETED


def _open_pool(config: StudyConfig, profile: SiteProfile, slots: int) -> WorkerPool:
    from cluster.pool import LocalPool

    if profile.slurm is None:
        return LocalPool(slots)
    from cluster.slurm import SlurmPool

    return SlurmPool(profile, profile.slurm, _study_jobs(config))


def _job_script(config: StudyConfig, profile: SiteProfile) -> str | None:
    if profile.slurm is None:
        return None
    from cluster.slurm import job_script

    return job_script(profile, profile.slurm, _study_jobs(config))


def _study_jobs(config: StudyConfig) -> StudyJobs:
    from cluster.jobqueue import StudyJobs

    return StudyJobs(config.study.name, config.study_dir.resolve())


def _storage_url(config: StudyConfig, arguments: argparse.Namespace) -> tuple[str, str]:
    """The database URL and where it was said: command line, environment, config, or the study's own file."""
    from storage.endpoint import STORAGE_VARIABLE

    if arguments.storage:
        return arguments.storage, "--storage"
    if os.environ.get(STORAGE_VARIABLE):
        return os.environ[STORAGE_VARIABLE], STORAGE_VARIABLE
    if config.study.storage:
        return config.study.storage, "study.storage"
    return f"sqlite:///{config.study_dir / 'study.db'}", "study.runs_dir"


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    # A log that cannot be written is told once, by whatever else then cannot be written.
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    import optuna

    # Optuna writes to the terminal by itself, into the middle of the live table.
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
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
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
