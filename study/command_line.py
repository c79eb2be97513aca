"""What the commands that train have in common: options, words for errors and exit codes."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cluster.exit_on_signals import SIGNALLED
from storage.protocol.files import is_disk_full

_EXIT_BAD_INPUT = 2
_PRODUCT = {"study", "storage", "cluster"}


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command to its exit code; what goes wrong as expected becomes one line and exit code 2."""
    try:
        return command()
    except KeyboardInterrupt:
        # Before there was a trial to pause.
        return SIGNALLED + signal.SIGINT
    except (ValueError, OSError, RuntimeError) as error:
        if not _is_expected(error):
            raise
        advice = "; make room, then run the same command to go on." if is_disk_full(error) else ""
        Console(stderr=True).print(
            f"error: {error}{advice}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        return _EXIT_BAD_INPUT


def require_folder_for(option: str, path: Path | None) -> None:
    """See that a file can be written, before what goes into it has taken its time.

    Raises:
        NotADirectoryError: Its folder is not there.
        IsADirectoryError: It is a folder itself.
    """
    if path is not None and path.is_dir():
        raise IsADirectoryError(f"{option} {path}: that is a folder; name a file in it.")
    if path is not None and not path.parent.is_dir():
        raise NotADirectoryError(f"{option} {path}: {path.parent} is not a folder; make it first.")


def print_note(console: Console, text: str) -> None:
    """A line beside what a command was asked for."""
    console.print(f"note: {text}", style="dim", highlight=False, markup=False, soft_wrap=True)


def add_options_of_sites(parser: argparse.ArgumentParser) -> None:
    """Where ranks run."""
    parser.add_argument(
        "--site", default="local", metavar="NAME", help="a file of cluster/sites, or a path; default: local"
    )
    parser.add_argument(
        "--site-set", action="append", default=[], metavar="KEY=VALUE", help="override any value of the site"
    )


def add_options_of_drivers(parser: argparse.ArgumentParser) -> None:
    """Where a study runs, and how it goes on."""
    add_options_of_sites(parser)
    parser.add_argument("--jobs", type=int, metavar="N", help="trials at once, with Slurm: jobs; default: the site's")
    parser.add_argument("--storage", metavar="URL", help="database, without password; default: SQLite in runs/")
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again, with their parameters")
    parser.add_argument(
        "--adopt", action="store_true", help="take over a folder of trials that another database knew, or lost files"
    )
    parser.add_argument(
        "--forecast-from",
        action="append",
        default=[],
        metavar="STUDY[@URL]",
        help="forecast times and node-hours from those of an earlier study of the same model and site; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def _is_expected(error: BaseException) -> bool:
    """Whether the error is one that this project words for a person, or a plain failure of the file system."""
    own = type(error).__module__.partition(".")[0] in _PRODUCT
    return own or isinstance(error, OSError)
