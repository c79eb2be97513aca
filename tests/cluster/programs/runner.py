"""A runner in a process of its own: `runner.py REQUEST`, the pickled AttemptRequest."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from cluster.attempt import StopSignal, run_attempt

run_attempt(pickle.loads(Path(sys.argv[1]).read_bytes()), relay=lambda metrics: None, stop=StopSignal())
