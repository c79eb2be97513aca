"""Programs of trainers/ that are not ranks: TensorFlow stays out of the driver's own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from cluster.attempt import trainer_environment
from cluster.diagnosis import cause
from storage.protocol.codec import to_json


class TrainersProgramError(RuntimeError):
    """A program of trainers/ has ended with an error, which it has worded for a person."""


def run_trainers_program(module: str, request: object, code_folders: Sequence[Path] = ()) -> int:
    """Run `python -m MODULE` with a request on its standard input; gives its exit code.

    It says its own errors. Ctrl-C reaches it as it does this process, which then waits until it has cleaned up.
    """
    return _run(module, request, code_folders, None)[0]


def require_trainers_program(module: str, request: object, code_folders: Sequence[Path] = ()) -> None:
    """The same from a Python program, in which nobody looks at standard error.

    Raises:
        TrainersProgramError: With the program's own words.
    """
    exit_code, said = _run(module, request, code_folders, subprocess.PIPE)
    if exit_code:
        raise TrainersProgramError(cause(said) or f"{module} ended with exit code {exit_code}")


def _run(module: str, request: object, code_folders: Sequence[Path], stderr: int | None) -> tuple[int, str]:
    environment = trainer_environment(os.environ, code_folders)
    process = subprocess.Popen(
        (sys.executable, "-m", module), env=environment, stdin=subprocess.PIPE, stderr=stderr, text=True
    )
    # Signals are the main thread's: on another one, there is no Ctrl-C to be waited for.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        _, said = process.communicate(to_json(request))
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    return process.returncode, said or ""
