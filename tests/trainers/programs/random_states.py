"""Builds the training of a trial's spec, and prints the states of its random generators and its weights' sums by rank.

random_states.py TRIAL_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from storage.protocol.trial_dir import TrialDir
from trainers.communicator import Communicator
from trainers.train import build_training

communicator = Communicator()
state = build_training(TrialDir(Path(sys.argv[1])).read_spec(), communicator).state
random_states = [np.asarray(variable).tolist() for variable in state.random_states()]
weights = [float(np.sum(np.asarray(variable))) for variable in state.shared()]
gathered = communicator.gather((random_states, weights))
if gathered is not None:
    print(json.dumps(gathered))
