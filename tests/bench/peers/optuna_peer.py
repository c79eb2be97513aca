"""An Optuna study whose objective starts a trial's ranks: `optuna_peer.py FOLDER COUNT`.

Without ranks: `--empty`; `--asha` with the scores of curve.py, under Optuna's own successive halving.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import curve
import optuna


def main(folder: Path, count: int, *, is_empty: bool, with_asha: bool) -> None:
    launch = json.loads((folder / "launch.json").read_text())

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("learning_rate", 1e-3, 1.0, log=True)
        if is_empty:
            return 0.5
        if with_asha:
            for epoch in range(curve.EPOCHS):
                trial.report(curve.score(trial.number, epoch), epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return curve.score(trial.number, curve.EPOCHS - 1)
        path = folder / f"{trial.number:04d}"
        subprocess.run([*launch["argv"], str(path)], env=launch["environment"], check=True, stdout=subprocess.DEVNULL)
        return json.loads((path / "attempt-01" / "result.json").read_text())["epochs"][-1]["f1_micro"]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/study.db",
        sampler=optuna.samplers.RandomSampler(7),
        pruner=optuna.pruners.SuccessiveHalvingPruner(reduction_factor=curve.FACTOR) if with_asha else None,
        direction="maximize",
    )
    study.optimize(objective, n_trials=count)
    assert len(study.trials) == count


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), is_empty="--empty" in sys.argv, with_asha="--asha" in sys.argv)
