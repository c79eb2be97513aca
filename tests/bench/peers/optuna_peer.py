"""An Optuna study whose objective starts a trial's ranks: `optuna_peer.py FOLDER COUNT`; without ranks, `--empty`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna


def main(folder: Path, count: int, *, is_empty: bool) -> None:
    launch = json.loads((folder / "launch.json").read_text())

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("learning_rate", 1e-3, 1.0, log=True)
        if is_empty:
            return 0.5
        path = folder / f"{trial.number:04d}"
        subprocess.run([*launch["argv"], str(path)], env=launch["environment"], check=True, stdout=subprocess.DEVNULL)
        return json.loads((path / "attempt-01" / "result.json").read_text())["epochs"][-1]["f1_micro"]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=f"sqlite:///{folder}/study.db", sampler=optuna.samplers.RandomSampler(7))
    study.optimize(objective, n_trials=count)
    assert len(study.trials) == count


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), is_empty="--empty" in sys.argv)
