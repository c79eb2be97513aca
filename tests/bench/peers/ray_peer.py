"""The same with Ray Tune, one trial at a time: `ray_peer.py FOLDER COUNT`. Runs in an environment of its own.

`--empty` and `--asha` as for optuna_peer.py, the latter with Ray's own ASHA.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

import curve
import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler


def main(folder: Path, count: int, *, is_empty: bool, with_asha: bool) -> None:
    launch = json.loads((folder / "launch.json").read_text())

    def train(config: dict[str, Any]) -> dict[str, float]:
        if is_empty:
            return {"f1_micro": 0.5}
        if with_asha:
            for epoch in range(curve.EPOCHS):
                tune.report({"f1_micro": curve.score(config["number"], epoch)})
            return {}
        path = folder / f"{config['number']:04d}"
        subprocess.run([*launch["argv"], str(path)], env=launch["environment"], check=True, stdout=subprocess.DEVNULL)
        return json.loads((path / "attempt-01" / "result.json").read_text())["epochs"][-1]

    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    scheduler = AsyncHyperBandScheduler(max_t=curve.EPOCHS, reduction_factor=curve.FACTOR) if with_asha else None
    tuner = tune.Tuner(
        train,
        param_space={"number": tune.grid_search(list(range(count))), "learning_rate": tune.loguniform(1e-3, 1.0)},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, metric="f1_micro", mode="max", scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    results = tuner.fit()
    assert len(results) == count
    assert not results.errors, results.errors


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), is_empty="--empty" in sys.argv, with_asha="--asha" in sys.argv)
