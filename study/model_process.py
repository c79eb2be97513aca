"""Programs of trainers/ that are not ranks: TensorFlow stays out of the driver's own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from storage.protocol.codec import to_json

_ROOT = Path(__file__).resolve().parent.parent


def run_trainers_program(module: str, request: object) -> int:
    """Run `python -m MODULE` with a request on its standard input; gives its exit code.

    It says its own errors. Ctrl-C reaches it as it does this process, which then waits until it has cleaned up.
    """
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    process = subprocess.Popen((sys.executable, "-m", module), env=environment, stdin=subprocess.PIPE, text=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.communicate(to_json(request))
    finally:
        signal.signal(signal.SIGINT, before)
    return process.returncode
