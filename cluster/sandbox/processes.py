"""The processes of a sandbox, found in /proc by what only they have; never by a name or a stored number alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.sandbox.layout import SandboxLayout

_DAEMONS = frozenset({"munged", "slurmctld", "slurmscriptd", "slurmd", "slurmstepd"})
_POLL_S = 0.05


@dataclass(frozen=True)
class SandboxProcess:
    """A daemon of a sandbox, or a process of one of its jobs."""

    pid: int
    name: str
    node: str
    """Empty for munged and slurmctld."""

    @property
    def is_daemon(self) -> bool:
        return self.name in _DAEMONS


def sandbox_processes(layout: SandboxLayout) -> list[SandboxProcess]:
    """All of them, zombies excepted, whoever started them and wherever they were re-parented to."""
    return list(_find(layout))


def _find(layout: SandboxLayout) -> Iterator[SandboxProcess]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            name = (entry / "comm").read_text().rstrip("\n")
            node = _node_of_daemon(entry, layout) if name in _DAEMONS else _node_of_task(entry, layout)
        except OSError:  # It ended, or it is somebody else's.
            continue
        if node is not None:
            yield SandboxProcess(int(entry.name), name, node)


def _node_of_daemon(entry: Path, layout: SandboxLayout) -> str | None:
    """From its open log file, or its environment before it has opened one. None: it is of another cluster.

    The environment alone would not do: slurmstepd overwrites it with its title.
    """
    for descriptor in (entry / "fd").iterdir():
        try:
            target = descriptor.readlink()
        except FileNotFoundError:  # Closed just now.
            continue
        if target.parent == layout.log_dir:
            return target.stem.removeprefix("slurmd-") if target.stem.startswith("slurmd-") else ""
    return "" if _is_in_environ(f"SLURM_CONF={layout.slurm_conf_path}", entry) else None


def _node_of_task(entry: Path, layout: SandboxLayout) -> str | None:
    """From the variables that slurmd gives to all that it starts, even with --export=NONE. None: of no job here.

    SLURM_CONF alone would not do: a user's shell has it, too.
    """
    if not _is_in_environ(f"SLURM_CONF={layout.slurm_conf_path}", entry):
        return None
    return next((node for node in layout.nodes if _is_in_environ(f"SLURMD_NODENAME={node}", entry)), None)


def _is_in_environ(variable: str, entry: Path) -> bool:
    return variable.encode() in (entry / "environ").read_bytes().split(b"\0")


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether the condition came true before the time was over."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def signal_until_gone(find: Callable[[], list[SandboxProcess]], number: int, within_s: float) -> list[SandboxProcess]:
    """Send a signal, once each, to all that `find` finds and goes on finding.

    Returns:
        What is left when the time is over; nothing as soon as there is nothing left.
    """
    signalled: set[int] = set()
    left: list[SandboxProcess] = []

    def all_gone() -> bool:
        left[:] = find()
        for process in left:
            if process.pid not in signalled:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        signalled.update(process.pid for process in left)
        return not left

    wait_until(all_gone, within_s)
    return left
