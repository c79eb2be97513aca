"""Trials of the paper's study as ranks of known costs would leave them in a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url

from cluster.profile import load_site
from storage.database.schema import TrialRecord
from storage.protocol.workload import Workload
from study.config import CONFIGS_DIR, load_config
from study.forecast.performance_model import Placement, UpdateCosts, update_s
from study.plan import StudyPlan

COSTS = UpdateCosts(fixed_s=0.02, per_sample_s=0.001, latency_s=0.0001, transfer_s=0.002)
TRAIN = 269_695
SMALL, LARGE = 512, 16_384
REST_S, START_S = 10.0, 60.0
SWITCHED = Workload(TRAIN, [SMALL, LARGE], [SMALL] * 20 + [LARGE] * 80)
CONSTANT = Workload(TRAIN, [SMALL], [SMALL] * 100)


def paper_plan(folder: Path, *overrides: str) -> StudyPlan:
    """24 trials of 16 GPUs each, 6 at once."""
    config = load_config(CONFIGS_DIR / "paper.toml", [f"study.runs_dir={folder / 'runs'}", *overrides])
    database = make_url(f"sqlite:///{folder / 'runs' / config.study.name / 'study.db'}")
    return StudyPlan.make(config, load_site("jureca-dc"), 2, database)


def epoch_s(global_batch_size: int, ranks: int = 16) -> float:
    updates = TRAIN // ranks // (global_batch_size // ranks)
    return updates * update_s(COSTS, Placement(ranks, ranks // 4), global_batch_size / ranks) + REST_S


def measured(sizes: Sequence[int], noise: float = 0.0, seed: int = 0, **changes: Any) -> TrialRecord:
    """A trial of 16 ranks on 4 nodes, with one epoch of each of these batch sizes."""
    random = np.random.default_rng(seed)
    slower = np.exp(noise * random.standard_normal(len(sizes))).tolist()
    rates = [
        size / update_s(COSTS, Placement(16, 4), size / 16) / slow for size, slow in zip(sizes, slower, strict=True)
    ]
    walls = [epoch_s(size) * slow for size, slow in zip(sizes, slower, strict=True)]
    record = TrialRecord(
        outcome="completed",
        reason="",
        wall_s=sum(walls) + START_S,
        node_hours=0.1,
        attempt_count=1,
        curves={"global_batch_size": [*map(float, sizes)], "samples_per_s": [*rates], "wall_s": [*walls]},
        hosts=[f"jrc{number}" for number in range(4)],
        data_plane="nccl",
        communicator={"world_size": 16, "threads_per_rank": 32},
    )
    return replace(record, **changes)


def as_trial(record: TrialRecord) -> FrozenTrial:
    return create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=record.attributes())
