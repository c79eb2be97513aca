"""In which of their two forms the studies of the tests run. `FRESH_RANKS=1 make test ARGS=tests/cluster`: the other."""

from __future__ import annotations

import os

RANKS_STAY = os.environ.get("FRESH_RANKS") != "1"
"""Whether one trial's ranks take the next one; each trial has ranks of its own otherwise."""
