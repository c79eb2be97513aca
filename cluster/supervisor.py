"""Keeps ranks from outliving their runner: `python -m cluster.supervisor GRACE_S COMMAND...`

Standard input is a pipe whose other end the runner holds. When it closes, by whatever death the runner died, the
ranks get SIGUSR1 (save a checkpoint), GRACE_S seconds, and then SIGKILL. SIGUSR1 and SIGTERM are passed on to the
command; its exit code becomes the supervisor's, 128 + N if signal N ended it.

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


def supervise(grace_s: float, command: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    # Ranks whose launcher was killed become our children, not init's, so that they can be found.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Blocked before the start: a signal that arrives while the child is made waits for its handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _begin_child(libc),
    )
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: child.send_signal(signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGTERM})

    _wait_for_exit_or_lost_runner(child)
    if child.poll() is None:
        child.send_signal(signal.SIGUSR1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    _kill_descendants()
    exit_code = child.wait()
    return exit_code if exit_code >= 0 else 128 - exit_code


def _begin_child(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGTERM})


def _wait_for_exit_or_lost_runner(child: subprocess.Popen) -> None:
    poller = select.poll()
    exited = os.pidfd_open(child.pid)
    poller.register(exited, select.POLLIN)
    # Nothing is ever written to the pipe: the only news it has is that the runner is gone.
    poller.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    poller.poll()
    os.close(exited)


def _kill_descendants() -> None:
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(descendants, timeout=10)


if __name__ == "__main__":
    sys.exit(supervise(float(sys.argv[1]), sys.argv[2:]))
