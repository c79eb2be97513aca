"""Trains one trial after the other in the same ranks, so that each costs no start of TensorFlow.

    several_trials.py ANSWERS_DIR FOLDER...

A folder is that of an attempt, which is open already, or that of a trial, which is started as by hand. Rank N writes
ANSWERS_DIR/N.json: for each trial's name the exit code and what this rank printed as errors. The last trial may end the
process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from storage.protocol.trial_dir import AttemptDir
from trainers.__main__ import main

answers_dir, *folders = map(Path, sys.argv[1:])
answers = {}
for folder in folders:
    attempt = AttemptDir(folder)
    is_open = folder.name.startswith("attempt-")
    trial_dir = attempt.trial.path if is_open else folder
    sys.argv = ["trainers", str(trial_dir), "--threads=1", *([f"--attempt={attempt.number}"] if is_open else [])]
    is_last = folder == folders[-1]
    with contextlib.redirect_stderr(sys.stderr if is_last else io.StringIO()) as errors:
        exit_code = main()
    answers[trial_dir.name] = {"exit_code": exit_code, "errors": "" if is_last else errors.getvalue()}
    (answers_dir / f"{os.environ['OMPI_COMM_WORLD_RANK']}.json").write_text(json.dumps(answers))
