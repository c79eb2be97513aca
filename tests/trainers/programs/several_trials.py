"""Trains one trial after the other in the same ranks, so that each costs no start of TensorFlow.

    several_trials.py ANSWERS_DIR TRIAL_DIR...

Rank N writes ANSWERS_DIR/N.json: for each trial's name the exit code and what this rank printed as errors. The attempt
of each trial is number 1, which is open already. The last trial may end the process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from trainers.__main__ import main

answers_dir, *trial_dirs = map(Path, sys.argv[1:])
answers = {}
for trial_dir in trial_dirs:
    sys.argv = ["trainers", str(trial_dir), "--attempt=1", "--threads=1"]
    is_last = trial_dir == trial_dirs[-1]
    with contextlib.redirect_stderr(sys.stderr if is_last else io.StringIO()) as errors:
        exit_code = main()
    answers[trial_dir.name] = {"exit_code": exit_code, "errors": "" if is_last else errors.getvalue()}
    (answers_dir / f"{os.environ['OMPI_COMM_WORLD_RANK']}.json").write_text(json.dumps(answers))
