"""In which of their two forms the tests' studies run: `FRESH_RANKS=1 make test ARGS=tests/cluster` for the other one."""

from __future__ import annotations

import os

RANKS_STAY = os.environ.get("FRESH_RANKS") != "1"
"""Whether one trial's ranks take the next one; each trial has ranks of its own otherwise."""
