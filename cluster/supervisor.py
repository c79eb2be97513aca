"""Keeps ranks from outliving their runner: `python -m cluster.supervisor GRACE_S COMMAND...`

Standard input is a pipe whose other end the runner holds. When it closes, by whatever death the runner died, or when
the supervisor is signalled, the ranks get SIGUSR1 (save a checkpoint), GRACE_S seconds, and then SIGKILL. The exit code
is the command's, 128 + N if signal N ended it; a command that was sent away and did not end with 0 counts as ended by
SIGTERM.

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

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LAUNCHER_ENDS_WITHIN_S = 10
_ENDING_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


def supervise(grace_s: float, command: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    # Ranks whose launcher was killed become our children, not init's, so that they can be found.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signalled = _listen()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: _begin_child(libc)
    )
    sent_away = _wait_for_exit_or_order_to_end(child, signalled)
    if sent_away:
        child.send_signal(signal.SIGUSR1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    if child.poll() is None:
        # srun's ranks are no children of it: only srun itself can end them, and does at SIGTERM.
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_LAUNCHER_ENDS_WITHIN_S)
    exit_code = _kill_descendants(child)
    if sent_away and exit_code != 0:
        return 128 + signal.SIGTERM
    return exit_code if exit_code >= 0 else 128 - exit_code


def _listen() -> int:
    """A file descriptor that can be read from once a signal has come."""
    signalled, note = os.pipe()
    os.set_blocking(note, False)
    signal.set_wakeup_fd(note)
    for number in _ENDING_SIGNALS:
        signal.signal(number, lambda signum, frame: None)
    return signalled


def _begin_child(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for_exit_or_order_to_end(child: subprocess.Popen, signalled: int) -> bool:
    """Whether it is the order to end that came."""
    poller = select.poll()
    exited = os.pidfd_open(child.pid)
    poller.register(exited, select.POLLIN)
    poller.register(signalled, select.POLLIN)
    # Nothing is ever written to the pipe: the only news it has is that the runner is gone.
    poller.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    news = {descriptor for descriptor, _ in poller.poll()}
    os.close(exited)
    return exited not in news


def _kill_descendants(child: subprocess.Popen) -> int:
    """Leave nothing behind; gives the child's exit code."""
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    exit_code = child.wait()
    # Without the child: whoever waits for it second finds no exit code.
    psutil.wait_procs([process for process in descendants if process.pid != child.pid], timeout=10)
    return exit_code


if __name__ == "__main__":
    sys.exit(supervise(float(sys.argv[1]), sys.argv[2:]))
