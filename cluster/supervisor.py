"""Keeps ranks from outliving their runner or their attempt: `python -m cluster.supervisor GRACE_S ATTEMPT COMMAND...`

Standard input is a pipe whose other end the runner holds. When it closes, by whatever death the runner died, or when
the supervisor is signalled, the ranks get SIGUSR1 (save a checkpoint), GRACE_S seconds, and then SIGKILL; SIGQUIT is
for a runner in a hurry and leaves out the seconds. When a newer
attempt than ATTEMPT, a folder, is there, they are killed at once: its ranks are about to start. The exit code is the
command's, 128 + N if signal N ended it; one that was terminated and did not end with 0 counts as ended by SIGTERM, and
one that was superseded has an exit code of its own.

A line on standard input is the folder of another attempt. Ranks that stay are sent to it, and it is ATTEMPT from then
on: in its log is what they print.

SIGUSR1, because launchers pass it on and go on themselves. At SIGTERM, Open MPI 5 kills the ranks after half a second,
with no option against it, and ends with exit code 1.

A process of its own, because a runner that is killed cannot clean up, and PR_SET_PDEATHSIG would be bound to the
thread of the Dask worker that started the ranks, not to the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from pathlib import Path

import psutil

from storage.protocol.attempts import ExitRecord
from storage.protocol.exit_codes import ExitCode
from storage.protocol.trial_dir import AttemptDir

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LAUNCHER_ENDS_WITHIN_S = 10
_KILLED_WITHIN_S = 30
_FENCE_EVERY_S = 1.0
_SAYS_IT_LIVES_EVERY_S = 10.0
_PRINTED_WITHIN_S = 5.0
_AT_ONCE = 1 << 16
_ENDING_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU}


class _News(Enum):
    EXITED = auto()
    SPOKEN_TO = auto()
    TOLD_TO_END = auto()
    SUPERSEDED = auto()
    IN_A_HURRY = auto()


class Watched:
    """The attempt under way."""

    def __init__(self, attempt: AttemptDir) -> None:
        self.attempt, self._began_s = attempt, time.monotonic()
        self._heard = b""

    @property
    def wall_s(self) -> float:
        """For which it has held its allocation."""
        return time.monotonic() - self._began_s

    def obey(self, heard: bytes) -> bool:
        """Do as the runner says; False if it is gone, or it cannot be done: then the ranks are to end."""
        *lines, self._heard = (self._heard + heard).split(b"\n")
        try:
            for line in lines:
                self._go_on_with(AttemptDir(Path(os.fsdecode(line))))
        except OSError as error:
            print(f"error: the ranks cannot go on: {error}", file=sys.stderr)
            return False
        return bool(heard)

    def _go_on_with(self, attempt: AttemptDir) -> None:
        with attempt.log_path.open("ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        before, self.attempt, self._began_s = self.attempt, attempt, time.monotonic()
        before.write_next(attempt)


def supervise(grace_s: float, watched: Watched, command: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    # Ranks whose launcher was killed become our children, not init's, so that they can be found.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signalled, hurried = _listen()
    read_end, write_end = os.pipe()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=write_end,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: _begin_child(libc),
    )
    os.close(write_end)
    relay = threading.Thread(target=_relay, args=(read_end,), name="relay", daemon=True)
    relay.start()
    superseded = _watch_fence(watched)
    at_once = {superseded: _News.SUPERSEDED, hurried: _News.IN_A_HURRY}
    of_all = {**at_once, signalled: _News.TOLD_TO_END, sys.stdin.fileno(): _News.SPOKEN_TO}
    while (news := _wait_for_news(child, of_all)) is _News.SPOKEN_TO:
        if not watched.obey(os.read(sys.stdin.fileno(), _AT_ONCE)):
            news = _News.TOLD_TO_END
            break
    if news is _News.TOLD_TO_END:
        child.send_signal(signal.SIGUSR1)
        # A newer attempt's ranks do not wait for the checkpoint of these.
        if (later := _wait_for_news(child, at_once, grace_s)) in at_once.values():
            news = later
    if child.poll() is None:
        # srun's ranks are no children of it: only srun itself can end them, and does at SIGTERM.
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_LAUNCHER_ENDS_WITHIN_S)
    exit_code = _kill_descendants(child)
    relay.join(_PRINTED_WITHIN_S)
    if news is _News.SUPERSEDED:
        return ExitCode.SUPERSEDED
    if news in (_News.TOLD_TO_END, _News.IN_A_HURRY) and exit_code != 0:
        return 128 + signal.SIGTERM
    return exit_code if exit_code >= 0 else 128 - exit_code


def _listen() -> tuple[int, int]:
    """File descriptors that can be read from once a signal has come: one that asks for an end, and one for haste."""
    signalled, note = os.pipe()
    hurried, note_haste = os.pipe()
    for number in _ENDING_SIGNALS:
        signal.signal(number, lambda signum, frame: _tell(note))
    signal.signal(signal.SIGQUIT, lambda signum, frame: _tell(note_haste))
    return signalled, hurried


def _tell(note: int) -> None:
    os.set_blocking(note, False)
    with contextlib.suppress(BlockingIOError):
        os.write(note, b"s")


def _relay(printed: int) -> None:
    """Have what the ranks print appear where this process prints now."""
    while content := os.read(printed, _AT_ONCE):
        # Of a full disk, too, the ranks must not wait for somebody to read.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), content)


def _watch_fence(watched: Watched) -> int:
    """A file descriptor that can be read from once a newer attempt is there. Until then, says how long this one has
    held its allocation.

    Looked at by a thread, because a file system that hangs must not keep the ranks from being ended.
    """
    superseded, note = os.pipe()
    says_s = 0.0

    def watch() -> None:
        nonlocal says_s
        while True:
            with contextlib.suppress(OSError):
                attempt = watched.attempt
                if attempt.is_superseded():
                    os.write(note, b"s")
                    return
                if time.monotonic() >= says_s:
                    says_s = time.monotonic() + _SAYS_IT_LIVES_EVERY_S
                    attempt.write_lived(watched.wall_s)
            time.sleep(_FENCE_EVERY_S)

    threading.Thread(target=watch, name="fence", daemon=True).start()
    return superseded


def _begin_child(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for_news(child: subprocess.Popen, news_of: Mapping[int, _News], within_s: float | None = None) -> _News:
    """The first thing that happens; an exit before all else that happened at the same time.

    Args:
        news_of: From a file descriptor to what it means that it can be read from. Nothing is ever written to the
            runner's pipe: the only news it has is that the runner is gone. The first of several counts.
        within_s: After which the wait is over, and TOLD_TO_END it stays.
    """
    poller = select.poll()
    with _exit_descriptor(child) as exited:
        for descriptor in (exited, *news_of):
            poller.register(descriptor, select.POLLIN | select.POLLHUP)
        happened = {descriptor for descriptor, _ in poller.poll(None if within_s is None else within_s * 1000)}
    if exited in happened:
        return _News.EXITED
    return next((news for descriptor, news in news_of.items() if descriptor in happened), _News.TOLD_TO_END)


@contextlib.contextmanager
def _exit_descriptor(child: subprocess.Popen) -> Iterator[int]:
    descriptor = os.pidfd_open(child.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _kill_descendants(child: subprocess.Popen) -> int:
    """Leave nothing behind; gives the child's exit code."""
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    try:
        exit_code = child.wait(_KILLED_WITHIN_S)
    except subprocess.TimeoutExpired:
        print("error: the ranks cannot be killed; their node waits for a device or a file system", file=sys.stderr)
        exit_code = -signal.SIGKILL
    # Without the child: whoever waits for it second finds no exit code.
    psutil.wait_procs([process for process in descendants if process.pid != child.pid], timeout=10)
    return exit_code


def main(grace_s: float, attempt: AttemptDir, command: list[str]) -> int:
    watched = Watched(attempt)
    exit_code = supervise(grace_s, watched, command)
    # For a driver to come: a runner that is still there says more.
    with contextlib.suppress(OSError):
        watched.attempt.write_exit(ExitRecord(exit_code, watched.wall_s))
    return exit_code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), AttemptDir(Path(sys.argv[2])), sys.argv[3:]))
