"""Programs run to their end, whose failure quotes what they said."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


class CommandError(RuntimeError):
    """A command ended with another code than 0, or did not end in time."""


def output_of(command: tuple[str, ...], environ: Mapping[str, str], timeout_s: float) -> str:
    """What the command prints on standard output.

    Raises:
        CommandError: It failed; quotes all that it printed.
    """
    try:
        ended = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)} has not ended after {timeout_s} s.") from error
    if ended.returncode != 0:
        raise CommandError(
            f"{' '.join(command)} ended with {ended.returncode}: {(ended.stderr + ended.stdout).strip()}"
        )
    return ended.stdout


def start_daemon(command: tuple[str, ...], environ: Mapping[str, str], log_path: Path) -> None:
    """Run a program that goes on in the background, and is of no use to other users.

    Raises:
        CommandError: It could not go into the background.
    """
    # Into a file, not a pipe: daemons keep it open, and who reads its other end would wait for as long as they live.
    with log_path.open("a") as log:
        ended = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, umask=0o077, check=False
        )
    if ended.returncode != 0:
        raise CommandError(f"{' '.join(command)} ended with {ended.returncode}; {tail_of(log_path)}")


def tail_of(*logs: Path) -> str:
    """The ends of these logs, for an error message."""
    ends = ["\n".join([f"--- {log.name}", *log.read_text().splitlines()[-8:]]) for log in logs]
    return "\n".join(["its log ends with", *ends])
