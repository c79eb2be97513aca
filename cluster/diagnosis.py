"""Why ranks ended, in one line for a person."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from storage.protocol.attempts import Failure
from storage.protocol.exit_codes import ExitCode

_OF_EXIT_CODE = {
    ExitCode.BAD_SPEC: Failure.BAD_SPEC,
    ExitCode.UNUSABLE_ALLOCATION: Failure.UNUSABLE_ALLOCATION,
    ExitCode.SUPERSEDED: Failure.SUPERSEDED,
    ExitCode.DISK_FULL: Failure.DISK_FULL,
    ExitCode.BAD_CHECKPOINT: Failure.BAD_CHECKPOINT,
    ExitCode.OUT_OF_MEMORY: Failure.OUT_OF_MEMORY,
    ExitCode.PEERS_LOST: Failure.INTERRUPTED,
}
# Of a launcher or a supervisor that was ended from outside. A supervisor that terminated the ranks says SIGTERM.
_INTERRUPTIONS = frozenset(
    128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
)
_KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True)
class OomKills:
    """How often the kernel has killed a process because memory was short. None: this kernel does not say."""

    of_this_job: int | None
    of_this_machine: int | None

    def reason_since(self, before: OomKills) -> str:
        """What has happened since `before`, in words; empty if nothing."""
        for now, then, where in (
            (self.of_this_job, before.of_this_job, "of this job"),
            (self.of_this_machine, before.of_this_machine, "on this machine"),
        ):
            if now is not None and then is not None and now > then:
                return f"the kernel killed a process {where} because memory ran out"
        return ""


def count_oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> OomKills:
    """The kernel's counters, as far as this process may read them: of its control group, and of the machine."""
    return OomKills(_of_control_group(proc, cgroups), _counter(proc / "vmstat", "oom_kill"))


def _of_control_group(proc: Path, cgroups: Path) -> int | None:
    """The largest count of the control group and those around it: a job's ranks lie beside its batch script."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    counts = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            group = cgroups / controllers / path.strip("/")
            name = "memory.oom_control" if controllers else "memory.events"
            folders = [group, *(parent for parent in group.parents if parent.is_relative_to(cgroups))]
            counts += [_counter(folder / name, "oom_kill") for folder in folders]
    return max((count for count in counts if count is not None), default=None)


def _counter(path: Path, name: str) -> int | None:
    try:
        match = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) if match else None


def failure_of(exit_code: int, has_begun: bool) -> Failure:
    """What an exit code means of an attempt that left no result. Pure."""
    if exit_code in _OF_EXIT_CODE:
        return _OF_EXIT_CODE[ExitCode(exit_code)]
    if exit_code in _INTERRUPTIONS:
        return Failure.INTERRUPTED
    return Failure.CRASHED if has_begun else Failure.NOT_LAUNCHED


def may_be_out_of_memory(exit_code: int) -> bool:
    """Whether the ranks ended as the kernel's out-of-memory killer ends a process."""
    return exit_code == _KILLED


def describe_exit(exit_code: int) -> str:
    """An exit code in words."""
    if exit_code > 128:
        try:
            return f"ended by {signal.Signals(exit_code - 128).name}"
        except ValueError:
            pass
    return f"exit code {exit_code}"


def cause(log_tail: str) -> str:
    """The line of a log's tail that a person should read first: ours, a Python exception's, or else the last one."""
    lines = _lines_that_say_something(log_tail)
    return error_in(log_tail) or (lines[-1] if lines else "")


def error_in(log_tail: str) -> str:
    """The error that a log's tail tells: ours, or a Python exception; empty if it tells none."""
    lines = _lines_that_say_something(log_tail)
    for pattern in (r"error: (.*)", r"((?:\w+\.)*\w*(?:Error|Exception|Interrupt): .*)"):
        matches = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if matches:
            return matches[-1]
    return ""


def _lines_that_say_something(log_tail: str) -> list[str]:
    # Open MPI puts what it says between two lines of dashes.
    return [line.strip() for line in log_tail.splitlines() if line.strip(" -")]
