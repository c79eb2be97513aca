"""The whole way of BigEarthNet by its commands: archive, shards, training, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from storage.protocol.trial_dir import TrialDir
from tests.architecture.sources import REPOSITORY
from tests.study.driver import WITHIN_S
from trainers.bigearthnet import Version

# TensorFlow starts twice in each.
pytestmark = pytest.mark.timeout(600)

# The paper's study, made small enough for this machine: the network, the batches and how long it trains.
SMALL = (
    "study.trials=1",
    "training.epochs=2",
    "training.loader_batch_size=8",
    'model={name="small_resnet", width=4, blocks=[1]}',
    'batch_policy={name="switch_at_epoch", small_global_batch_size=4, large_global_batch_size=16, switch_epoch=1}',
    "dataset.augment=true",
)


def run(*command: str | Path) -> str:
    ended = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("version", Version)
def test_from_the_archive_to_the_report(version, tmp_path):
    archive, shards, runs, node = (tmp_path / name for name in ("archive", "shards", "runs", "node"))
    splits = archive / ("splits" if version is Version.V1 else "metadata.parquet")
    dataset = ("-m", "trainers.datasets.bigearthnet")
    paths = [f'dataset.path="{shards}"', f'dataset.node_cache="{node}"', f'study.runs_dir="{runs}"']
    config = ("--config", "study/configs/paper.toml")

    run(*dataset, "synthesize", "--patches", "40", "--version", version, "--out", archive)
    run(*dataset, "prepare", "--archive", archive, "--version", version, "--splits", splits, "--out", shards)
    closing = run("study/run.py", *config, *(word for change in (*SMALL, *paths) for word in ("--set", change)))
    compared = run("study/compare.py", "paper", "--runs-dir", runs)

    [trial] = optuna.load_study(storage=f"sqlite:///{runs}/paper/study.db", study_name="paper").trials
    sizes = json.loads((shards / "manifest.json").read_text())["splits"]
    epochs = TrialDir(runs / "paper/trials/0000").attempt(1).read_metrics()
    per_rank = sizes["train"]["patches"] // 2
    assert [metrics.samples for metrics in epochs] == [2 * (per_rank // 2 * 2), 2 * (per_rank // 8 * 8)]
    assert trial.user_attrs["epochs:global_batch_size"] == [4, 16]
    # Both ranks read one copy in the node's memory, of the splits that a training uses.
    assert {path.parent.name for path in node.rglob("*.u16")} == {"train", "val"}
    assert not list(node.rglob("*.part"))
    for report in (closing, compared):
        assert f"{trial.value:.4f}" in report
