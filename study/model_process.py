"""Programs of trainers/ that are not ranks: TensorFlow stays out of the driver's own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.attempt import trainer_environment
from storage.protocol.codec import to_json


def run_trainers_program(module: str, request: object, code_folders: Sequence[Path] = ()) -> int:
    """Run `python -m MODULE` with a request on its standard input; gives its exit code.

    It says its own errors. Ctrl-C reaches it as it does this process, which then waits until it has cleaned up.
    """
    environment = trainer_environment(os.environ, code_folders)
    process = subprocess.Popen((sys.executable, "-m", module), env=environment, stdin=subprocess.PIPE, text=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.communicate(to_json(request))
    finally:
        signal.signal(signal.SIGINT, before)
    return process.returncode
