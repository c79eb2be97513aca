"""The same with Ray Tune, one trial at a time: `ray_peer.py FOLDER COUNT`. Runs in an environment of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

import ray
from ray import tune


def main(folder: Path, count: int, *, is_empty: bool) -> None:
    launch = json.loads((folder / "launch.json").read_text())

    def train(config: dict[str, Any]) -> dict[str, float]:
        if is_empty:
            return {"f1_micro": 0.5}
        path = folder / f"{config['number']:04d}"
        subprocess.run([*launch["argv"], str(path)], env=launch["environment"], check=True, stdout=subprocess.DEVNULL)
        return json.loads((path / "attempt-01" / "result.json").read_text())["epochs"][-1]

    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    tuner = tune.Tuner(
        train,
        param_space={"number": tune.grid_search(list(range(count))), "learning_rate": tune.loguniform(1e-3, 1.0)},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    results = tuner.fit()
    assert len(results) == count
    assert not results.errors, results.errors


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), is_empty="--empty" in sys.argv)
